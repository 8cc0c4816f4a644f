"""Engines: what runs the graph. The service knows the `Engine` protocol only."""
