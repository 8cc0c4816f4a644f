"""Classifiers that this project did not make, built from public packages, and what `oodguard wrap` makes of them."""
