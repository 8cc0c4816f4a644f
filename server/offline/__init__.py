"""Scoring many images without a server: sources, parts, results, in this process or on Ray."""
