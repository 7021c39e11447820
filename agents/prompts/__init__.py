"""Prompts as versioned files, one per role and version."""
