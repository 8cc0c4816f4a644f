"""Engines: what runs the graph. The server knows them by the `Engine` protocol and by their names in the registry."""
