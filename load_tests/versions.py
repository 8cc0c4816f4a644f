"""What plain traffic costs a server of this checkout beside one of another: processor time for each photo.

    git worktree add /tmp/before COMMIT
    python load_tests/versions.py BUNDLE --images photos/test --other /tmp/before --rounds 20

Both servers run all the while and are asked in turn, one photo at a time, the first one of each pair alternately. Time
on the clock says nothing on a machine that others use; processor time in pairs does, and how far the pairs differ says
how much. The bundle must be one that both can read.
"""

from __future__ import annotations

import http.client
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import console, read_images, run_script, write_report
from oodguard.load_tests.limit import turns
from oodguard.load_tests.options import Options
from oodguard.load_tests.process import HOST

NAMES = ("this", "other")


class Asked:
    """A server, asked over one connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._connection = http.client.HTTPConnection(HOST, gateway.port, timeout=60)

    def milliseconds(self, photos: Sequence[bytes], *, count: int) -> float:
        """The server's processor time for a photo, on average. Raises `EnvironmentProblem` where one is refused."""
        before = self._gateway.cpu_seconds()
        for number in range(count):
            self._connection.request("POST", "/predict", photos[number % len(photos)], {"content-type": "image/jpeg"})
            answer = self._connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise EnvironmentProblem(f"a photo was answered {answer.status}; this script needs plain traffic")
        return 1e3 * (self._gateway.cpu_seconds() - before) / count


def main() -> None:
    """Measure and print."""
    parser = Options("Processor time for a photo, of two checkouts.", rounds=20).add_bundle().add_images().add_serve()
    parser.add_argument("--other", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--photos", type=int, default=200, help="photos in each round (default: 200)")
    options = parser.parse()
    if not (options.other / "oodguard").is_dir():
        raise InputError(f"{options.other} is no checkout of this repository")
    photos = read_images(options.images, count=options.count)
    rows: dict[str, list[float]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        asked = {}
        for name, tree in zip(NAMES, (Path(__file__).resolve().parents[1], options.other.resolve()), strict=True):
            gateway = Gateway(options.bundle, *options.serve, environment={"PYTHONPATH": os.fspath(tree)})
            asked[name] = Asked(stack.enter_context(gateway))
        for server in asked.values():
            server.milliseconds(photos, count=options.photos)
        for number in range(options.rounds):
            for name in turns(number, *NAMES):
                rows[name].append(asked[name].milliseconds(photos, count=options.photos))
            console.print(f"  this {rows['this'][-1]:.2f} ms, other {rows['other'][-1]:.2f} ms", style="dim")
    more = sorted(100 * (this / other - 1) for this, other in zip(rows["this"], rows["other"], strict=True))
    quarter = len(more) // 4
    console.print(
        f"processor time for a photo: this {statistics.median(rows['this']):.2f} ms, other "
        f"{statistics.median(rows['other']):.2f} ms; in pairs {statistics.median(more):+.1f} %, half of the "
        f"{len(more)} pairs from {more[quarter]:+.1f} to {more[-1 - quarter]:+.1f} %"
    )
    write_report(options.json, options=vars(options), rows=[{"name": name, "ms": rows[name]} for name in NAMES])


if __name__ == "__main__":
    run_script(main)
