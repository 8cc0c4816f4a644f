from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.wrk import multipart_form, parse_summary, raw_form, require_wrk, write_lua

CAPTURED = """\
Running 1s test @ http://127.0.0.1:8000
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    19.06ms   22.37ms 128.13ms   92.59%
    Req/Sec   289.10     99.39   363.00     90.00%
  292 requests in 1.06s, 11.41KB read
  Non-2xx or 3xx responses: 41
Requests/sec:    276.46
Transfer/sec:     10.80KB
summary {"requests": 292, "microseconds": 1056223, "p50_us": 10909, "p99_us": 128101, "non_2xx": 41, "broken": 0}
"""


def test_the_summary_line_is_read_and_its_units_converted() -> None:
    result = parse_summary(CAPTURED, client_seconds=0.03)
    assert result.images_per_second == pytest.approx(276.46, abs=0.01)
    assert (result.p50_ms, result.p99_ms) == (10.909, 128.101)
    assert (result.non_2xx, result.broken) == (41, 0)
    assert result.client_cpu == pytest.approx(0.03 / 1.056223)


def test_output_without_a_summary_is_a_sentence() -> None:
    with pytest.raises(EnvironmentProblem, match="no summary: unable to connect"):
        parse_summary("unable to connect\n", client_seconds=0)


def test_missing_wrk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentProblem, match="needs wrk; install it"):
        require_wrk()


def test_bodies_lie_beside_the_script_that_rotates_over_them(tmp_path: Path) -> None:
    script = write_lua(raw_form([b"one", b"two"]), tmp_path)
    assert [(tmp_path / str(i)).read_bytes() for i in range(2)] == [b"one", b"two"]
    text = script.read_text(encoding="utf-8")
    assert f'io.open("{tmp_path}/" .. index, "rb")' in text
    assert "next_request = (next_request + 1) % 2" in text
    if luac := shutil.which("luac"):
        subprocess.run([luac, "-p", str(script)], check=True)


def test_a_form_holds_the_image_unchanged() -> None:
    form = multipart_form([b"\xff\xd8\r\n--x"])
    boundary = form.content_type.partition("boundary=")[2].encode()
    head, _, rest = form.bodies[0].partition(b"\r\n\r\n")
    assert head.startswith(b"--" + boundary + b'\r\nContent-Disposition: form-data; name="image"')
    assert rest == b"\xff\xd8\r\n--x\r\n--" + boundary + b"--\r\n"
