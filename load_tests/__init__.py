"""Scripts that measure the server, and locust's people: run from a checkout, never installed."""
