"""What clients and server counted of the same requests: two books that must agree, to the request and the image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from oodguard.core.answers import PredictResponse
from oodguard.core.problems import Problem
from oodguard.load_tests.counters import Counters

ROUTE = "/predict"


@dataclass
class Book:
    """Requests by status, images by verdict (`true` is out of distribution), refusals by code."""

    requests: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_server(cls, counters: Counters) -> Book:
        """The server's book, since its start."""
        requests = counters.by("oodguard_requests", "route", "status")
        images = counters.by("oodguard_predictions", "is_ood")
        refused = counters.by("oodguard_rejected", "code")
        return cls(
            Counter({status: n for (route, status), n in requests.items() if route == ROUTE}),
            Counter({verdict: n for (verdict,), n in images.items()}),
            Counter({code: n for (code,), n in refused.items()}),
        )

    def read(self, status: int, body: bytes) -> None:
        """Enter one answer. Raises `ValueError` where it is not one of ours."""
        self.requests[str(status)] += 1
        if status == 200:
            answer = PredictResponse.model_validate_json(body)
            self.images.update(str(prediction.is_ood).lower() for prediction in answer.predictions)
            self.refused.update(error.code for error in answer.errors)
        else:
            problem = Problem.model_validate_json(body)
            # Where several images failed, each was refused for its own reason.
            self.refused.update(error.code for error in problem.errors or (problem,))

    def since(self, other: Book) -> Book:
        """What was entered after `other`."""
        return Book(self.requests - other.requests, self.images - other.images, self.refused - other.refused)


def compare(clients: Book, server: Book) -> list[dict[str, object]]:
    """Every count of either book in one row with the other's; `same` says whether they agree."""
    rows: list[dict[str, object]] = []
    for what in ("requests", "images", "refused"):
        mine, theirs = getattr(clients, what), getattr(server, what)
        for key in sorted(mine.keys() | theirs.keys()):
            name = f"{what} {'flagged' if key == 'true' else 'not flagged' if key == 'false' else key}"
            rows.append({"what": name, "clients": mine[key], "server": theirs[key], "same": mine[key] == theirs[key]})
    return rows
