"""The methods: how each trains, and the scores it gives, one family per file. `catalogue.py` lists them by name."""
