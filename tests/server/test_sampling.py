from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodguard.clients.samples import read_samples
from oodguard.server.engines.fake import FakeEngine
from oodguard.training.errors import EnvironmentProblem

PNG = {"content-type": "image/png"}


def test_flagged_images_are_kept_with_their_verdicts(
    start: Any, golden: list[bytes], strangers: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flagged"
    client = start(sample_dir=folder, sample_rate=1.0)
    stranger = next(strangers.rglob("*.png")).read_bytes()
    answer = client.post("/predict", content=stranger, headers=PNG).json()
    inside = client.post("/predict", content=golden[0], headers=PNG).json()["predictions"][0]
    client.service.sampler.close()
    found = read_samples(folder)
    flagged = [p for p in (answer["predictions"][0], inside) if p["is_ood"]]
    assert flagged
    assert not found.unreadable
    assert len(found.good) == len(flagged)
    kept = found.good[0]
    assert kept.image.read_bytes() == stranger
    assert (kept.sample.ood_score, kept.sample.accept) == (answer["predictions"][0]["ood_score"], answer["accept"])
    assert client.sample('oodguard_samples_total{result="kept"}') == len(flagged)


def test_the_folder_never_grows_beyond_its_bound(start: Any, strangers: Path, tmp_path: Path) -> None:
    stranger = next(strangers.rglob("*.png")).read_bytes()
    (tmp_path / "older").write_bytes(b"x" * len(stranger))
    client = start(sample_dir=tmp_path, sample_rate=1.0, sample_max_bytes=2 * len(stranger))
    for _ in range(3):
        assert client.post("/predict", content=stranger, headers=PNG).json()["predictions"][0]["is_ood"]
    client.service.sampler.close()
    assert client.sample('oodguard_samples_total{result="kept"}') == 1.0
    assert client.sample('oodguard_samples_total{result="dropped"}') == 2.0


def test_nothing_is_kept_by_default_and_a_bad_folder_is_refused(start: Any, fake: FakeEngine, tmp_path: Path) -> None:
    assert start(engine=fake).service.sampler is None
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(EnvironmentProblem, match="flagged images cannot be kept"):
        start(engine=fake, sample_dir=file)
