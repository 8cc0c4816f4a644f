from __future__ import annotations

from collections import Counter

import pytest

from oodguard.load_tests.saturation import Part, Parts, sentence, why_saturated
from oodguard.load_tests.tally import Tally


def tally(answered: int, *, shed: int = 0, milliseconds: float = 20.0) -> Tally:
    outcomes = Counter({"200": answered, "429": shed})
    return Tally(outcomes, Counter(answer=answered), latencies=Counter({milliseconds: answered}))


def part(users: int, rate: int, *, shed: int = 0, busy: float | None = None) -> Part:
    return Part(users, 10.0, tally(10 * rate, shed=shed), busy)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        # 5 of 405 requests are more than one in a hundred, 4 of 404 are not.
        ([part(10, 40, shed=5)], "1.2\N{NO-BREAK SPACE}% of requests were shed"),
        ([part(10, 40, shed=4)], None),
        # Half as many users again, and a tenth more images.
        ([part(10, 40), part(15, 43)], "10 users got 40.0 images/s and 15 users 43.0"),
        ([part(10, 40), part(15, 44)], None),
        ([part(11, 40), part(15, 40)], None),
        # The part with the most users decides, whenever it came.
        ([part(4, 40), part(20, 90), part(4, 40, shed=50)], None),
        ([part(4, 20), part(8, 40), part(20, 41)], "8 users got 40.0 images/s and 20 users 41.0"),
        ([part(10, 40, busy=0.95)], "its processors were 95\N{NO-BREAK SPACE}% busy"),
        ([part(10, 40, busy=0.94)], None),
        ([part(10, 40, busy=0.99), part(20, 80, busy=0.5)], None),
    ],
)
def test_saturated_is_what_sheds_or_answers_no_more_or_has_no_processors_left(
    parts: list[Part], why: str | None
) -> None:
    assert why_saturated(parts) == why


def test_the_sentence_is_of_the_part_with_the_most_users() -> None:
    slow = Part(20, 10.0, tally(410, milliseconds=480.0), 0.5)
    assert sentence([part(8, 40), slow]) == (
        "this machine answers 41.0 images/s at p99 480 ms; it was saturated: 8 users got 40.0 images/s and 20 users "
        "41.0."
    )
    assert sentence([part(4, 20, busy=0.4), part(8, 40, busy=0.7)], machine="http://a.b") == (
        "http://a.b answers 40.0 images/s at p99 20 ms; it was not saturated by 8 users: 0.0\N{NO-BREAK SPACE}% of "
        "requests were shed, and its processors were 70\N{NO-BREAK SPACE}% busy; more --people show what it can answer."
    )
    for nothing in ([], [Part(3, 10.0, Tally())]):
        assert "answered nothing" in sentence(nothing)


def test_parts_begin_where_the_users_change_and_count_their_own_answers() -> None:
    parts = Parts()
    parts.note(2, tally(0), now=100.0, processors=(50.0, 200.0))
    parts.note(2, tally(30), now=101.0, processors=(51.0, 202.0))
    # Half of the four seconds of two processors were work.
    parts.note(6, tally(40), now=102.0, processors=(52.0, 204.0))
    # Too short to say anything.
    parts.note(7, tally(45), now=102.5)
    parts.note(0, tally(100), now=104.5)
    parts.end(tally(120), now=109.0)
    assert [(p.users, p.seconds, p.tally.images, p.busy) for p in parts.found] == [
        (2, 2.0, 40, 0.5),
        (7, 2.0, 55, None),
    ]
