#!/usr/bin/env bash
# A POST that offers an upgrade to HTTP/2, as clients that prefer HTTP/2 do on plain http, reaches the application without its body.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
import socket
import threading
import time

import uvicorn

print(*(f"{name} {md.version(name)}" for name in ("uvicorn", "httptools", "h11")))


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    text = b"%d bytes" % len(body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text)), (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": text})


def asked(port, *more):
    head = "\r\n".join(["POST /predict HTTP/1.1", "Host: localhost", "Content-Length: 9", *more, "", ""])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + b"the image")
        answer = b""
        while not answer.endswith(b" bytes"):
            answer += connection.recv(65536)
    return answer.split(b"\r\n")[0].decode(), answer.rsplit(b"\r\n", 1)[1].decode()


h2c = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
for parser, expected in (("h11", "9 bytes"), ("httptools", "0 bytes")):
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, http=parser, ws="none", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = listener.getsockname()[1]
    plain, offered = asked(port), asked(port, *h2c)
    server.should_exit = True
    thread.join()
    print(f"http={parser}, 9 bytes sent: without the offer {plain}, with it {offered}")
    assert plain == ("HTTP/1.1 200 OK", "9 bytes") and offered == ("HTTP/1.1 200 OK", expected)
PY
