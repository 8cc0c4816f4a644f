"""The HTTP service. Never imports torch."""
