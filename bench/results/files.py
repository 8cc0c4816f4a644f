"""The files of a comparison: `results.json`, `results.md`, `report.html`, and three per trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem

RESULTS_FILE = "results.json"
MARKDOWN_FILE = "results.md"
HTML_FILE = "report.html"
TRIALS = "trials"


@dataclass(frozen=True)
class TrialFiles:
    """The files of one trial in the comparison's folder `out`."""

    out: Path
    arena: str
    seed: int
    method: str

    @property
    def record(self) -> Path:
        """The trial and its records."""
        return self._named(".json")

    @property
    def weights(self) -> Path:
        """The trained detector."""
        return self._named(".safetensors")

    @property
    def scores(self) -> Path:
        """The arrays `test/SCORE`, `SET/SCORE` and `threshold/SCORE`; of the first seed only."""
        return self._named(".scores.safetensors")

    def _named(self, suffix: str) -> Path:
        return self.out / TRIALS / f"{self.arena.replace(' ', '-')}-{self.seed}" / f"{self.method}{suffix}"


def write_text(path: Path, text: str) -> None:
    """Write all of the text or nothing. Raises `EnvironmentProblem` where the file cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror}); choose another --out") from None
