"""The gavotte command line: one thin module per noun."""
