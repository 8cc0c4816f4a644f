"""Counts of a load test: read off answers, and added up over workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from oodguard.core.answers import PredictResponse
from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest
from oodguard.core.problems import Problem
from oodguard.core.verdict import Decision
from oodguard.load_tests.harness import percentile
from oodguard.load_tests.load import SHED
from oodguard.load_tests.triton_http import read_outputs

BROKEN = "broken"
UNREADABLE = "unreadable"


@dataclass
class Tally:
    """What came of some requests.

    `outcomes` counts statuses, `broken` (no answer) and `unreadable` (an answer that is not oodguard's). `decisions`
    counts answered images by decision, `refused` counts refusals by code, `latencies`
    counts 200 answers by milliseconds.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    latencies: Counter[float] = field(default_factory=Counter)

    @classmethod
    def of_answer(cls, status: int, content: bytes) -> Tally:
        """One answer to `POST /predict`; a status of 0 means that none came."""
        tally = cls(Counter([str(status) if status else BROKEN]))
        try:
            if status == 200:
                answer = PredictResponse.model_validate_json(content)
                tally.decisions.update(str(prediction.decision) for prediction in answer.predictions)
                tally.refused.update(error.code for error in answer.errors)
            elif status:
                problem = Problem.model_validate_json(content)
                # Where several images failed, each was refused for its own reason.
                tally.refused.update(error.code for error in problem.errors or (problem,))
        except ValidationError:
            # A refusal may come from a proxy before the server, and says no more than its status.
            return cls(Counter([UNREADABLE])) if status == 200 else tally
        return tally

    @classmethod
    def of_triton(cls, status: int, content: bytes, headers: Mapping[str, str], manifest: Manifest) -> Tally:
        """One answer of Triton's, judged as its callers must: with the manifest."""
        if status != 200:
            return cls(Counter([str(status) if status else BROKEN]))
        try:
            verdicts = manifest.judge(read_outputs(content, headers))
        except (ValueError, KeyError, QualityError):
            return cls(Counter([UNREADABLE]))
        return cls(Counter(["200"]), Counter(str(verdict.decision) for verdict in verdicts))

    def timed(self, milliseconds: float) -> Tally:
        """The same with the latency of its answer, if it is a 200."""
        if self.answered:
            # Tenths up to a second, then tenths of a percent: a long test must not send every latency anywhere.
            self.latencies[round(milliseconds, 1) if milliseconds < 1000 else float(f"{milliseconds:.4g}")] += 1
        return self

    def add(self, other: Tally) -> None:
        """Add another's counts."""
        self.outcomes.update(other.outcomes)
        self.decisions.update(other.decisions)
        self.refused.update(other.refused)
        self.latencies.update(other.latencies)

    def since(self, before: Tally) -> Tally:
        """What was counted after `before`."""
        return Tally(
            self.outcomes - before.outcomes,
            self.decisions - before.decisions,
            self.refused - before.refused,
            self.latencies - before.latencies,
        )

    @property
    def requests(self) -> int:
        """All of them."""
        return self.outcomes.total()

    @property
    def answered(self) -> int:
        """Those answered with 200."""
        return self.outcomes["200"]

    @property
    def shed(self) -> int:
        """Those that the server refused because it had no room or no time."""
        return sum(self.outcomes[status] for status in SHED)

    @property
    def errors(self) -> int:
        """All others."""
        return self.requests - self.answered - self.shed

    @property
    def images(self) -> int:
        """Answered images."""
        return self.decisions.total()

    @property
    def flagged_share(self) -> float:
        """The share of answered images that are out of distribution."""
        return self.decided(Decision.STRANGER)

    def decided(self, decision: Decision) -> float:
        """The share of answered images with this decision; of none it is 0."""
        return self.decisions[decision] / self.images if self.images else 0.0

    def share(self, count: int) -> float:
        """A share of the requests; of none it is 0."""
        return count / self.requests if self.requests else 0.0

    def latency(self, share: float) -> float:
        """A percentile of the answered requests' latencies, in milliseconds; NaN of none."""
        return percentile(sorted(self.latencies.elements()), share)


@dataclass
class Tallies:
    """A `Tally` for each kind of request."""

    kinds: dict[str, Tally] = field(default_factory=dict)

    def of(self, kind: str) -> Tally:
        """The tally of one kind."""
        return self.kinds.setdefault(kind, Tally())

    @property
    def total(self) -> Tally:
        """All kinds together."""
        total = Tally()
        for tally in self.kinds.values():
            total.add(tally)
        return total

    def take(self) -> dict[str, Any]:
        """The counts as a message, and begin again from nothing."""
        kinds, self.kinds = self.kinds, {}
        # Pairs: a message's keys are text, and latencies are numbers.
        return {kind: [list(counts.items()) for counts in vars(tally).values()] for kind, tally in kinds.items()}

    def receive(self, message: dict[str, Any]) -> None:
        """Add the counts of a message that `take` made."""
        for kind, counts in message.items():
            self.of(kind).add(Tally(*(Counter(dict(pairs)) for pairs in counts)))
