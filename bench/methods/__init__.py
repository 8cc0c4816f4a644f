"""Every method of the comparison, by name: how it trains, and the scores it gives. `catalogue.py` lists them."""
