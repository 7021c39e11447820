"""The model port, its scripted and remote implementations."""
