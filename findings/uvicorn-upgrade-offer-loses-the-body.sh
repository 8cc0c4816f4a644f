#!/usr/bin/env bash
# A client that offers HTTP/2 over plain HTTP, as curl --http2 does, reaches the application without its body.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
import logging
import socket
import threading
import time

import uvicorn

print("uvicorn", md.version("uvicorn"), "httptools", md.version("httptools"), "h11", md.version("h11"))
logging.disable(logging.CRITICAL)
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = b"%d bytes" % len(body)
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def ask(port: int, offer: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + offer + b"Content-Length: 5\r\n\r\nhello")
        answer = b""
        while not answer.endswith(b"bytes"):
            answer += connection.recv(4096)
    return answer.partition(b"\r\n\r\n")[2].decode()


seen = {}
for name in ("httptools", "h11"):
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, http=name, ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = listening.getsockname()[1]
    seen[name] = (ask(port, b""), ask(port, OFFER))
    print(f"{name}: without an offer the application reads {seen[name][0]}, with Upgrade: h2c {seen[name][1]}")
    server.should_exit = True
    thread.join()
assert seen == {"httptools": ("5 bytes", "0 bytes"), "h11": ("5 bytes", "5 bytes")}
PY
