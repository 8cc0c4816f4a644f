"""Python clients: `Client(url).predict([path, ...])`, and `AsyncClient` for asyncio."""

from oodguard.clients.aio import AsyncClient
from oodguard.clients.calls import Retries
from oodguard.clients.errors import ClientError, ServerProblem, ServerUnreachable
from oodguard.clients.http import Client
from oodguard.core.answers import Result

__all__ = ["AsyncClient", "Client", "ClientError", "Result", "Retries", "ServerProblem", "ServerUnreachable"]
