"""From somebody else's classifier to a network that a guard can be trained on: its parts, its pixels, its classes."""
