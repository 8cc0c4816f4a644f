"""Receives the flagged images that a server sends to a webhook, and keeps them for `oodguard review`.

    python webhook_receiver.py webhook-secret flagged 8080
    OODGUARD_SERVE_SAMPLE_WEBHOOK=http://localhost:8080/ OODGUARD_SERVE_SAMPLE_WEBHOOK_SECRET=webhook-secret \
      oodguard serve bundles/photos
    oodguard review flagged

The signature is that of Standard Webhooks, for which there are libraries in many languages; here is all of it.
"""

import base64
import hashlib
import hmac
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024
# Seconds that a request may be old: an old one may be a copy that somebody has recorded.
TOLERANCE = 300
SUFFIXES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif", "image/bmp": "bmp",
            "image/tiff": "tif"}  # fmt: skip


def is_genuine(headers, body, secret):
    """Whether the sender knows the secret and has signed this body just now."""
    identity, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE:
        return False
    right = hmac.new(secret, f"{identity}.{at}.".encode() + body, hashlib.sha256).digest()
    shown = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(f"v1,{base64.b64encode(right).decode()}".encode(), one.encode()) for one in shown)


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to what it keeps; the server repeats nothing that was answered with 4xx."""

    def do_POST(self):
        """One image."""
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            return self.answer(413)
        body = self.rfile.read(int(length))
        if not is_genuine(self.headers, body, self.server.secret):
            return self.answer(401)
        data = json.loads(body)["data"]
        # A repetition has the same id, so it writes the same files.
        stem = self.server.folder / re.sub(r"\W", "_", self.headers["webhook-id"])
        suffix = SUFFIXES[data["image"]["content_type"]]
        stem.with_suffix(f".{suffix}").write_bytes(base64.b64decode(data["image"]["base64"]))
        stem.with_suffix(".json").write_text(json.dumps(data["sample"]), encoding="utf-8")
        return self.answer(204)

    def answer(self, status):
        """A status alone."""
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    file, folder, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    server.secret = base64.b64decode(file.read_text().split()[0].removeprefix("whsec_"))
    server.folder = folder
    server.serve_forever()
