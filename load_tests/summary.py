"""The short summary of a load test: a page, Markdown and CSV of the same rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.verdict import Decision
from oodguard.load_tests.harness import machine
from oodguard.load_tests.saturation import Part, sentence
from oodguard.load_tests.tally import Tallies, Tally
from oodguard.load_tests.thresholds import Check
from oodguard.pages.page import Fact, Facts, Finding, Findings, Page, Section, Table, render
from oodguard.pages.text import count, percent

TITLE = "Load test"
HEAD = (
    "requests of kind",
    "requests",
    "images/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "shed %",
    "errors %",
    "unsure %",
    "flagged %",
)


@dataclass(frozen=True)
class Summary:
    """What a load test of `seconds` came to, whether it kept its thresholds, and how it was run.

    `parts`: its parts by the number of users; `machine`: what they called.
    """

    tallies: Tallies
    seconds: float
    checks: Sequence[Check]
    options: Mapping[str, object]
    parts: Sequence[Part] = ()
    machine: str = "this machine"

    @property
    def sentence(self) -> str:
        """What the machine answers, and whether it was saturated."""
        users = int(str(self.options.get("people", 1)))
        found = self.parts or (Part(users, self.seconds, self.tallies.total),)
        return sentence(found, machine=self.machine)

    @property
    def kept(self) -> bool:
        """Whether every threshold was."""
        return all(check.kept for check in self.checks)

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """One row a kind of request, and one of all; a dash where nothing was measured."""
        kinds = sorted(self.tallies.kinds.items())
        return tuple(self._row(kind, tally) for kind, tally in (*kinds, ("all", self.tallies.total)))

    def _row(self, kind: str, tally: Tally) -> tuple[str, ...]:
        latencies = (tally.latency(share) for share in (50, 95, 99))
        answered = (tally.decided(Decision.UNSURE), tally.flagged_share)
        shares = (tally.share(tally.shed), tally.share(tally.errors), *answered)
        return (
            kind,
            str(tally.requests),
            f"{tally.images / self.seconds:.1f}",
            *("-" if math.isnan(latency) else f"{latency:.0f}" for latency in latencies),
            *(f"{100 * share:.1f}" for share in shares),
        )

    def markdown(self) -> str:
        """As Markdown: what was run, the table, outcomes, thresholds."""
        lines = [f"{self._subtitle()}.", "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        lines += ["", f"Outcomes: {self._outcomes()}.", "", *(f"- {check.sentence}" for check in self.checks)]
        lines += ["", self.sentence]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """As CSV."""
        stream = io.StringIO()
        csv.writer(stream).writerows((HEAD, *self.rows()))
        return stream.getvalue()

    def html(self) -> str:
        """As one page."""
        total = self.tallies.total
        facts = (
            Fact(name="Images a second", value=f"{total.images / self.seconds:.1f}"),
            Fact(name="p99", value=f"{self.rows()[-1][5]} ms", detail="of answered requests"),
            Fact(name="Shed", value=percent(total.share(total.shed)), detail=self._counted(total.shed)),
            Fact(name="Errors", value=percent(total.share(total.errors)), detail=self._counted(total.errors)),
            Fact(
                name="Unsure",
                value=percent(total.decided(Decision.UNSURE)),
                detail=f"of {count(total.images, 'image')}",
            ),
            Fact(name="Flagged", value=percent(total.flagged_share), detail=f"of {count(total.images, 'image')}"),
        )
        checks = [Finding("good" if check.kept else "weak", check.sentence) for check in self.checks]
        findings = Findings((*checks, Finding("note", self.sentence)))
        options = Table(
            caption="Options",
            head=("option", "value"),
            rows=tuple((name, str(value)) for name, value in self.options.items()),
            words=frozenset({1}),
        )
        table = Table(
            caption="Requests by kind", head=HEAD, rows=self.rows(), strong=frozenset({len(self.tallies.kinds)})
        )
        page = Page(
            title=TITLE,
            subtitle=self._subtitle(),
            first=(Facts(facts), findings, table),
            sections=(Section("How it was run", (options,)),),
            footer=f"Outcomes: {self._outcomes()}.",
        )
        return render(page)

    def write(self, folder: Path) -> None:
        """Write `summary.html`, `summary.md` and `summary.csv` into a folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in (("html", self.html()), ("md", self.markdown()), ("csv", self.csv())):
                (folder / f"summary.{name}").write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror})") from None

    def _subtitle(self) -> str:
        host = machine()
        shape, users = self.options.get("shape"), self.options.get("people")
        load = f"{self.seconds:.0f} s, {shape} load of up to {users} users"
        return f"{load}, from {host['processor']}, {host['cores']} cores"

    def _outcomes(self) -> str:
        return ", ".join(f"{name} {number:,}" for name, number in self.tallies.total.outcomes.most_common()) or "none"

    @staticmethod
    def _counted(number: int) -> str:
        return count(number, "request")
