"""What an answer that is not oodguard's own means: a proxy answered, or there is no oodguard at the address."""

from __future__ import annotations

import httpx

from oodguard.clients.errors import ClientError, ServerProblem, ServerUnreachable
from oodguard.core.codes import Code
from oodguard.core.problems import problem

# What a proxy means with a status, and what to do; "{}" is how much was sent.
MEANINGS = {
    400: "refused {} with 400; use https:// if it wants TLS, and check its log",
    401: "wants credentials of its own (401); check its access rules",
    403: "refused {} with 403; check its access rules",
    407: "wants credentials of its own (407); check the proxy settings of this machine",
    408: "got {} too slowly (408); raise its body timeout",
    411: "refused {} with 411; let it take bodies without a length",
    413: "refused {} with 413; raise its body limit (nginx: client_max_body_size)",
    414: "refused the address with 414; shorten it",
    429: "lets through fewer requests than came (429); send them more slowly, or raise its limit",
    431: "refused the request head with 431; raise its header limit",
    499: "saw the connection close before the answer (499); give it more time",
    500: "failed (500); check its log",
    502: "got no answer from the server (502); check that the server runs where the proxy looks for it",
    503: "has no server to ask (503); check that a server is ready behind it",
    504: "waited for the server in vain (504); raise its timeout above the server's max_request_timeout",
}


def error_of(url: str, reply: httpx.Response, *, sent: int) -> ClientError:
    """The error for a reply that is neither an answer nor a problem document of oodguard; `sent`: bytes of images.

    A body that is too large for a proxy is that request's problem, like one that is too large for the server.
    """
    status, by = reply.status_code, reply.headers.get("server", "")[:60]
    proxy = f"the proxy in front of {url}{f' ({by})' if by else ''}"
    target = reply.headers.get("location")
    if reply.is_redirect and target:
        return ServerUnreachable(f"{url} sends clients to {target[:200]} ({status}); use that address")
    meaning = MEANINGS.get(status)
    if meaning is None:
        return ServerUnreachable(f"{url} is not an oodguard server ({status}); check the address")
    sentence = f"{proxy} {meaning.format(_amount(sent))}"
    if status == Code.BODY_TOO_LARGE.status:
        return ServerProblem(problem(Code.BODY_TOO_LARGE, sentence))
    return ServerUnreachable(sentence)


def _amount(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size:,} bytes"
