#!/usr/bin/env bash
# The same NaN is an error 500 or a 200 with null: it depends on the return annotation of the route.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.3 httpx2==2.16.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import fastapi
import pydantic
import starlette
from fastapi.testclient import TestClient

print("fastapi", fastapi.__version__, "starlette", starlette.__version__, "pydantic", pydantic.VERSION)
app = fastapi.FastAPI()


@app.get("/bare")
def bare(score: float):
    return {"score": score}


@app.get("/annotated")
def annotated(score: float) -> dict[str, float]:
    return {"score": score}


client = TestClient(app, raise_server_exceptions=False)
for path, score, expected in (
    ("/bare", "0.5", (200, '{"score":0.5}')),
    ("/bare", "nan", (500, "Internal Server Error")),
    ("/annotated", "nan", (200, '{"score":null}')),
    ("/annotated", "inf", (200, '{"score":null}')),
):
    answer = client.get(path, params={"score": score})
    print(f"GET {path}?score={score}: {answer.status_code} {answer.text}")
    assert (answer.status_code, answer.text) == expected
number = app.openapi()["paths"]["/annotated"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["additionalProperties"]
print("what OpenAPI promises for score:", number)
assert number == {"type": "number"}
PY
