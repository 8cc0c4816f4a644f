"""A server's own counters, as its private port shows them."""

from __future__ import annotations

from collections import Counter

import httpx
from prometheus_client.parser import text_string_to_metric_families

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.serving import HOST


class Counters:
    """What the server on the private port `port` has counted.

    ```python
    Counters(8001).by("oodguard_requests", "route", "status")[("/predict", "200")]
    ```
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://{HOST}:{port}/metrics"

    def by(self, family: str, *labels: str) -> Counter[tuple[str, ...]]:
        """The counter `family` by some of its labels, summed over the others; what is 0 is left out."""
        try:
            text = httpx.get(self._url, timeout=30).raise_for_status().text
        except httpx.HTTPError as error:
            raise EnvironmentProblem(f"{self._url} cannot be read ({error})") from None
        found: Counter[tuple[str, ...]] = Counter()
        for metric in text_string_to_metric_families(text):
            for sample in metric.samples if metric.name == family else ():
                if sample.name == f"{family}_total" and sample.value:
                    found[tuple(sample.labels[label] for label in labels)] += round(sample.value)
        return found
