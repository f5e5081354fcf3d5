"""Right versions in several styles, and wrong versions that are one of them with one mistake."""
