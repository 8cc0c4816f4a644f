"""The `oodguard` command: the one place that knows the terminal."""
