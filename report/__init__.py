"""The report, its experiments and their records, and the scripts that make them."""
