"""Suites: which photos are ID, which are OOD, and how a network sees them. `catalogue.py` lists them."""
