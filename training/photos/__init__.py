"""Labelled photos: finding them, and dividing them so that near-duplicates stay on one side."""
