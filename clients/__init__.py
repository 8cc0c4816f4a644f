"""Python client for the HTTP service: `Client(url).predict([path, ...])`."""

from oodguard.clients.http import Client

__all__ = ["Client"]
