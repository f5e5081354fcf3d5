"""The figures, and the scripts that draw them from the records."""
