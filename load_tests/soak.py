"""Ten minutes at 80 % of capacity: does memory stay flat, is every descriptor closed, and do client and server agree?

The capacity is measured first; then a share of it is offered at a fixed rate, in all kinds of bodies, a few of them
with a damaged image. At the end the server's counters are compared with what the client counted, to the request and
the image.

    python load_tests/soak.py BUNDLE --images photos/test --ood-images other

Ends with 1 when the counts differ, a request failed, descriptors leaked, or memory grew by more than --max-growth
percent between the first fifth and the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from oodguard.core.errors import InputError
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import OtherPrograms, console, report_table, run_script, write_report
from oodguard.load_tests.load import SHED, schedule
from oodguard.load_tests.load_client import LoadClient, saturate
from oodguard.load_tests.mix import Mix, add_mix, mix_options
from oodguard.load_tests.options import Options
from oodguard.load_tests.request import KINDS, Request, requests_of
from oodguard.load_tests.tally import Tally

REQUESTS = 200
# One request in so many has a damaged image; half of these have a good one beside it.
DAMAGED = 25
MARKS = {"minute": "minute", "rss_mb": "RSS MB", "descriptors": "descriptors", "requests": "requests", "cpu": "CPU"}
COUNTS = {"what": "what", "client": "client", "server": "server", "same": "same"}


@dataclass(frozen=True)
class Mark:
    """The server at one moment: minutes since the start, memory, open descriptors, processor use since the last."""

    minute: float
    rss_mb: float
    descriptors: int
    requests: int
    cpu: float


@dataclass(frozen=True)
class Soak:
    """Everything a soak found."""

    marks: tuple[Mark, ...]
    counts: tuple[dict[str, object], ...]
    outcomes: dict[str, int]
    latencies: dict[str, float]
    idle_descriptors: tuple[int, int]

    @property
    def faults(self) -> list[str]:
        """What must not be, in sentences; memory is not judged here."""
        wrong = Counter(self.outcomes)
        for status in ("200", "400", "415", "422"):
            del wrong[status]
        before, after = self.idle_descriptors
        return [
            *(
                f"{row['what']}: client {row['client']}, server {row['server']}"
                for row in self.counts
                if not row["same"]
            ),
            *(f"{count} requests ended as {name}" for name, count in wrong.items() if name not in SHED),
            *([f"{after - before} more descriptors are open than before"] if after > before else []),
        ]

    @property
    def growth_percent(self) -> float:
        """Memory at the end over memory after the first fifth, in percent above it."""
        settled = self.marks[min(len(self.marks) // 5, len(self.marks) - 1)].rss_mb
        return 100 * (self.marks[-1].rss_mb / settled - 1)


def requests(mix: Mix) -> list[Request]:
    """What is sent, over and over: all kinds of bodies, a few with a damaged image."""
    found = [mix.gateway() for _ in range(REQUESTS)]
    for index in range(0, REQUESTS, DAMAGED):
        found[index] = KINDS["multipart"]([b"no image"] if index % 2 else [*mix.draw(1), b"no image"])
    return found


def server_tally(gateway: Gateway) -> Tally:
    """What the server has counted of `POST /predict` since its start."""
    statuses = gateway.count("oodguard_requests", "route", "status")
    return Tally(
        Counter({status: number for (route, status), number in statuses.items() if route == "/predict"}),
        Counter({kind: number for (kind,), number in gateway.count("oodguard_decisions", "decision").items()}),
        Counter({code: number for (code,), number in gateway.count("oodguard_rejected", "code").items()}),
    )


def compare(client: Tally, server: Tally) -> list[dict[str, object]]:
    """Every count of either side in one row with the other's; `same` says whether they agree."""
    rows: list[dict[str, object]] = []
    for name, ours, theirs in (
        ("requests", client.outcomes, server.outcomes),
        ("images", client.decisions, server.decisions),
        ("refused", client.refused, server.refused),
    ):
        for key in sorted(ours.keys() | theirs.keys()):
            rows.append(
                {"what": f"{name} {key}", "client": ours[key], "server": theirs[key], "same": ours[key] == theirs[key]}
            )
    return rows


async def soak(server: Gateway, sent: Sequence[Request], *, rate: float, seconds: float, every: float) -> Soak:
    """Offer `rate` requests a second for `seconds`, and look at the server each `every` seconds."""
    client = Tally()
    load = LoadClient(sent, port=server.port, read=lambda status, body: client.add(Tally.of_answer(status, body)))
    idle = server.descriptors()
    before = server_tally(server)
    watcher = _Watcher(server, client)
    watching = asyncio.create_task(watcher.run(every))
    result = await load.offer(schedule(rate, seconds), seconds=seconds)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    watcher.look()
    # The server notices closed connections a moment later.
    deadline = time.monotonic() + 30
    while (after := server.descriptors()) > idle and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    counts = compare(client, server_tally(server).since(before))
    latencies = {f"p{share}_ms": round(result.latency(share), 1) for share in (50, 95, 99)}
    return Soak(tuple(watcher.marks), tuple(counts), result.outcomes, latencies, (idle, after))


class _Watcher:
    """Looks at the server from time to time."""

    def __init__(self, server: Gateway, client: Tally) -> None:
        self.marks: list[Mark] = []
        self._server = server
        self._client = client
        self._began = self._seen = time.monotonic()
        self._cpu = server.cpu_seconds()

    async def run(self, every: float) -> None:
        """Look each `every` seconds, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(max(self._began + len(self.marks) * every - time.monotonic(), 0))

    def look(self) -> None:
        """Look now."""
        now, used = time.monotonic(), self._server.cpu_seconds()
        mark = Mark(
            minute=round((now - self._began) / 60, 2),
            rss_mb=round(self._server.rss() / 1e6, 1),
            descriptors=self._server.descriptors(),
            requests=self._client.requests,
            cpu=round((used - self._cpu) / max(now - self._seen, 1e-9), 2),
        )
        self.marks.append(mark)
        self._cpu, self._seen = used, now


def main() -> None:
    """Measure, print, and end with 1 where something is wrong."""
    options = _options()
    others = OtherPrograms()
    mix = Mix(mix_options(options), random.Random(options.seed))
    sent = requests(mix)
    with Gateway(options.bundle, *options.serve) as server:
        rate = options.rate or _share_of_capacity(server, mix, sent, options.share)
        console.print(f"offering {rate:.1f} requests/s for {options.minutes:g} minutes", style="dim")
        found = asyncio.run(soak(server, sent, rate=rate, seconds=60 * options.minutes, every=60 * options.every))
    marks = [asdict(mark) for mark in found.marks]
    title = f"{options.bundle.name}: {options.minutes:g} minutes of {rate:.1f} requests/s; {found.latencies}"
    console.print(report_table(title, MARKS, marks))
    console.print(report_table("what client and server counted", COUNTS, found.counts))
    faults = found.faults
    if found.growth_percent > options.max_growth:
        faults.append(f"memory grew by {found.growth_percent:.1f} % after the first fifth")
    shed = sum(found.outcomes.get(status, 0) for status in SHED)
    console.print(
        f"descriptors while idle: {found.idle_descriptors[0]} before, {found.idle_descriptors[1]} after; "
        f"memory after the first fifth: {found.growth_percent:+.1f} %; shed: {shed}; faults: {len(faults)}"
    )
    write_report(options.json, options={**vars(options), "rate": rate, **others.report()}, rows=marks)
    for fault in faults:
        console.print(f"  {fault}", style="red")
    sys.exit(1 if faults else 0)


def _share_of_capacity(server: Gateway, mix: Mix, sent: Sequence[Request], share: float) -> float:
    """Requests a second that hold `share` percent of the images the server can answer."""
    capacity = saturate(requests_of("raw", mix.draw(16)), port=server.port, seconds=10, connections=16, warmup=2).rate
    console.print(f"capacity: {capacity:.1f} images/s", style="dim")
    return capacity * share / 100 / (sum(request.images for request in sent) / len(sent))


def _options() -> argparse.Namespace:
    parser = Options("A long, steady load: memory, descriptors, and the server's counters.").add_bundle().add_serve()
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--every", type=float, default=1.0, help="minutes between looks at the server (default: 1)")
    parser.add_argument("--share", type=float, default=80.0, help="percent of capacity to offer (default: 80)")
    parser.add_argument("--rate", type=float, help="requests a second, instead of a share of the capacity")
    parser.add_argument("--max-growth", type=float, default=5.0, help="percent that memory may grow (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="which images and bodies (default: 0)")
    add_mix(parser)
    options = parser.parse()
    if options.minutes <= 0 or options.every <= 0 or options.share <= 0:
        raise InputError("--minutes, --every and --share must be above 0")
    return options


if __name__ == "__main__":
    run_script(main)
