from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from oodguard.server.drift import BOUNDS, DriftCounts
from oodguard.server.engines.fake import FakeEngine


def series(client: Any, family: str) -> dict[tuple[str, ...], float]:
    """Samples of a family by name suffix and label values, in the order of the labels' names."""
    text = client.private.get("/metrics").text
    found = next(f for f in text_string_to_metric_families(text) if f.name == family)
    return {(s.name.removeprefix(family), *(v for _, v in sorted(s.labels.items()))): s.value for s in found.samples}


def test_shares_are_counted_up_to_and_including_a_bound() -> None:
    counts = DriftCounts([0.0] * (len(BOUNDS) + 1))
    for share in (0.0, 0.05, 0.0500001, 0.95, 0.98, 0.999, 1.0):
        counts.add(share)
    buckets = dict(counts.buckets())
    assert (buckets["0.05"], buckets["0.1"], buckets["0.9"]) == (2, 3, 3)
    assert (buckets["0.95"], buckets["0.975"], buckets["0.99"], buckets["+Inf"]) == (4, 4, 5, 7)
    assert counts.total == 0.0 + 0.05 + 0.0500001 + 0.95 + 0.98 + 0.999 + 1.0
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_every_answer_is_counted_once_in_every_distribution(start: Any, fake: FakeEngine, picture: Any) -> None:
    client = start(engine=fake)
    names = [entry.name for entry in client.parts.serving.model.manifest.scores]
    assert series(client, "oodguard_fused_percentile")["_count",] == 0
    answers = []
    for data in (picture("white"), picture("black"), b"junk"):
        answers += (
            client.post("/predict", content=data, headers={"content-type": "image/png"}).json().get("predictions", [])
        )
    fused = series(client, "oodguard_fused_percentile")
    assert fused["_count",] == len(answers) == 2
    assert fused["_sum",] == sum(a["percentile"] for a in answers) / 100
    scores = series(client, "oodguard_score_percentile")
    flags = series(client, "oodguard_score_flags")
    for name in names:
        assert scores["_count", name] == 2
        assert scores["_bucket", "0.5", name] == sum(a["scores"][name]["percentile"] <= 50 for a in answers)
        assert flags["_total", name] == sum(a["scores"][name]["is_ood"] for a in answers)


def test_what_is_expected_is_exported_beside_it(start: Any) -> None:
    client = start(accept=0.9)
    expected = series(client, "oodguard_expected_share")
    assert (expected["", "0.05"], expected["", "0.95"], expected["", "+Inf"]) == (0.05, 0.95, 1.0)
    bounds = {key[1] for key in series(client, "oodguard_fused_percentile") if key[0] == "_bucket"}
    assert bounds == {key[1] for key in expected}
    assert abs(client.sample("oodguard_expected_ood_share") - 0.1) < 1e-12
    assert client.sample('oodguard_limit{setting="max_queue"}') == 128.0
    assert client.sample('oodguard_requests_total{route="/predict",status="429"}') == 0.0


def test_every_answer_is_counted_under_its_label(start: Any, golden: list[bytes], strangers: Any) -> None:
    client = start()
    manifest = client.parts.serving.model.manifest
    images = [*golden, *(path.read_bytes() for path in sorted(strangers.rglob("*.png")))]
    before = series(client, "oodguard_class_percentile")
    assert {key[1] for key in before if key[0] == "_count"} == set(manifest.classes)
    assert not any(before.values())
    files = [("image", (str(i), image)) for i, image in enumerate(images)]
    answers = client.post("/predict", files=files).json()["predictions"]
    found = series(client, "oodguard_class_percentile")
    for label in manifest.classes:
        mine = [a["percentile"] for a in answers if a["label"] == label]
        assert found["_count", label] == len(mine)
        assert found["_bucket", label, "0.9"] == sum(p <= 90 for p in mine)
    bounds = {key[2] for key in found if key[0] == "_bucket"}
    assert len(bounds) == 10
    assert bounds <= {key[1] for key in series(client, "oodguard_expected_share")}


def test_a_model_with_too_many_classes_has_no_series_by_class(start: Any) -> None:
    client = start(class_drift=2)
    assert not series(client, "oodguard_class_percentile")
