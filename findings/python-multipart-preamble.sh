#!/usr/bin/env bash
# Text before the first boundary, which RFC 2046 lets a sender write, makes the parser give up.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check fastapi==0.165.0 starlette==1.10.0 python-multipart==0.0.34 httpx2==2.16.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import email.message
import email.policy
import importlib.metadata as md
from typing import Annotated

import fastapi
from fastapi.testclient import TestClient

print("python-multipart", md.version("python-multipart"), "fastapi", fastapi.__version__)
app = fastapi.FastAPI()


@app.post("/predict")
def predict(image: Annotated[fastapi.UploadFile, fastapi.File()]):
    return image.file.read().decode()


client = TestClient(app)
for before, expected in ((b"", (200, '"abc"')), (b"\r\n", (200, '"abc"')), (b"This is a multi-part message.\r\n", (400, '{"detail":"Invalid multipart data."}'))):
    body = before + b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc\r\n--B--\r\n' + b"text after the end"
    answer = client.post("/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    parsed = email.message_from_bytes(b"Content-Type: multipart/form-data; boundary=B\r\n\r\n" + body, policy=email.policy.HTTP)
    parts = [part.get_payload() for part in parsed.iter_parts()]
    print(f"preamble {before}: {answer.status_code} {answer.text}; the standard library's parser reads {parts}, preamble {parsed.preamble!r}")
    assert (answer.status_code, answer.text) == expected and parts == ["abc"]
PY
