"""What is asked of a source of advisories, and what is said of its answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.advisories import SOURCE, advisories, main, pins

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source() -> Iterator[tuple[str, list[Any]]]:
    """A server that speaks OSV's querybatch, and what it was asked: pillow 9.0.0 has an advisory."""
    asked: list[Any] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            known = {("pillow", "9.0.0"): {"vulns": [{"id": "PYSEC-2"}, {"id": "PYSEC-1"}]}}
            results = [known.get((q["package"]["name"], q["version"]), {}) for q in body["queries"]]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"results": results}).encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_every_pin_is_asked_about_and_advisories_are_named(
    source: tuple[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, asked = source
    lock = tmp_path / "x.lock"
    lock.write_text("# made\nPillow==9.0.0 \\\n    --hash=sha256:00\nnumpy==2.4.6\n")
    assert main([str(lock), "--source", url]) == 1
    assert capsys.readouterr().out.splitlines() == ["pillow 9.0.0: PYSEC-1, PYSEC-2", "2 packages, 1 with advisories"]
    assert {q["package"]["name"] for q in asked[0]["queries"]} == {"pillow", "numpy"}
    assert {q["package"]["ecosystem"] for q in asked[0]["queries"]} == {"PyPI"}
    lock.write_text("numpy==2.4.6\n")
    assert main([str(lock), "--source", url]) == 0


def test_a_source_that_is_not_there_checks_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.lock").write_text("numpy==2.4.6\n")
    assert main([str(tmp_path / "x.lock"), "--source", "http://127.0.0.1:9"]) == 3
    assert capsys.readouterr().err.startswith("not checked: ")


def test_the_images_packages_have_no_known_advisory() -> None:
    packages = pins(path.read_text() for path in (ROOT / "images").glob("*.lock"))
    assert len(packages) > 50
    try:
        found = advisories(packages)
    except (OSError, ValueError, KeyError) as error:
        pytest.skip(f"{SOURCE} cannot be reached: {error}")
    assert found == {}
