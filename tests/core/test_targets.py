from __future__ import annotations

import pytest
from pydantic import ValidationError

from oodguard.core.curve import QuantileCurve
from oodguard.core.targets import Targets


def test_what_is_not_asked_for_stays() -> None:
    targets = Targets(accept=0.9, confidence=0.8)
    assert targets.but() is targets
    assert targets.but(coverage=0.99) == Targets(accept=0.9, confidence=0.8, coverage=0.99)
    assert len({targets, targets.but(coverage=0.99), Targets(accept=0.9, confidence=0.8)}) == 2


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, float("nan")])
@pytest.mark.parametrize("name", ["accept", "confidence", "coverage", "max_error"])
def test_a_target_out_of_range_is_one_sentence(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be above 0 and below 1; got {value:g}$"):
        Targets().but(**{name: value})
    with pytest.raises(ValidationError):
        Targets(**{name: value})


def test_records_that_kept_arrays_can_be_compared() -> None:
    """What a record computed once is no part of it."""
    first, second = QuantileCurve.fit([1.0, 2.0, 3.0]), QuantileCurve.fit([1.0, 2.0, 3.0])
    assert (first.percentile(2.0), second.percentile(2.0)) == (25.0, 25.0)
    assert first == second != QuantileCurve.fit([1.0, 2.0, 4.0])
    assert first != Targets()
    assert hash(Targets()) == hash(Targets())
