"""`wrk` as the closed-loop client: a generated Lua script that rotates over real images, and its summary."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.bodies import multipart_body
from oodguard.load_tests.serving import HOST

MARK = "summary "

LUA = """\
local requests, next_request = {}, 0

init = function(arguments)
  local headers = { %(headers)s }
  for index = 0, %(count)d - 1 do
    local file = assert(io.open("%(folder)s/" .. index, "rb"))
    requests[index] = wrk.format("POST", "%(path)s", headers, file:read("*a"))
    file:close()
  end
end

request = function()
  next_request = (next_request + 1) %% %(count)d
  return requests[next_request]
end

done = function(summary, latency, all)
  local errors = summary.errors
  io.write(string.format(
    '%(mark)s{"requests": %%d, "microseconds": %%d, "p50_us": %%d, "p99_us": %%d, "non_2xx": %%d, "broken": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass(frozen=True)
class Form:
    """How an image is put into a request: path, content type, the bodies to rotate over, and more headers."""

    name: str
    path: str
    content_type: str
    bodies: tuple[bytes, ...]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class WrkResult:
    """One run of wrk. `client_cpu` is wrk's own processor time as a share of one core."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    non_2xx: int
    broken: int
    client_cpu: float


def raw_form(images: Sequence[bytes], *, path: str = "/predict") -> Form:
    """Each image as the whole body."""
    return Form("raw", path, "image/jpeg", tuple(images))


def multipart_form(images: Sequence[bytes], *, path: str = "/predict") -> Form:
    """Each image as the one file of a form."""
    bodies = [multipart_body([image]) for image in images]
    return Form("multipart", path, bodies[0].content_type, tuple(body.content for body in bodies))


def require_wrk() -> str:
    """Where wrk is; a sentence if it is missing."""
    found = shutil.which("wrk")
    if found is None:
        raise EnvironmentProblem("this benchmark needs wrk; install it with apt-get install wrk or brew install wrk")
    return found


def run_wrk(form: Form, *, port: int, seconds: float, connections: int, warmup: float = 0.0) -> WrkResult:
    """Saturate the server on `port` for `seconds` with `connections` that each send the next request at once."""
    wrk = require_wrk()
    with tempfile.TemporaryDirectory(prefix="oodguard-wrk-") as name:
        script = write_lua(form, Path(name))
        command = [
            wrk,
            "--threads",
            "1",
            "--connections",
            str(connections),
            "--timeout",
            "30s",
            "--script",
            str(script),
        ]
        url = f"http://{HOST}:{port}"
        if warmup:
            subprocess.run([*command, "--duration", f"{max(round(warmup), 1)}s", url], capture_output=True, check=True)
        before = _children_seconds()
        ran = subprocess.run(
            [*command, "--duration", f"{max(round(seconds), 1)}s", url], capture_output=True, text=True, check=False
        )
        used = _children_seconds() - before
    if ran.returncode:
        raise EnvironmentProblem(f"wrk failed: {' '.join((ran.stderr or ran.stdout).split())}")
    return parse_summary(ran.stdout, client_seconds=used)


def write_lua(form: Form, folder: Path) -> Path:
    """Write the bodies and the script that rotates over them; the script's path."""
    for index, body in enumerate(form.bodies):
        (folder / str(index)).write_bytes(body)
    script = folder / "rotate.lua"
    headers = ", ".join(
        f'["{name}"] = "{value}"' for name, value in (("Content-Type", form.content_type), *form.headers)
    )
    fields = {"headers": headers, "path": form.path, "count": len(form.bodies), "folder": folder}
    script.write_text(LUA % {**fields, "mark": MARK}, encoding="utf-8")
    return script


def parse_summary(output: str, *, client_seconds: float) -> WrkResult:
    """The result in what wrk printed: the script's own summary line, whose numbers have fixed units."""
    for line in output.splitlines():
        if line.startswith(MARK):
            found = json.loads(line.removeprefix(MARK))
            seconds = found["microseconds"] / 1e6
            return WrkResult(
                images_per_second=found["requests"] / seconds,
                p50_ms=found["p50_us"] / 1e3,
                p99_ms=found["p99_us"] / 1e3,
                non_2xx=found["non_2xx"],
                broken=found["broken"],
                client_cpu=client_seconds / seconds,
            )
    raise EnvironmentProblem(f"wrk printed no summary: {' '.join(output.split())}")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
