"""`Targets`: what a caller asks of an answer; every one of them moves without a new export."""

from __future__ import annotations

from typing import Annotated, Self, TypedDict, Unpack, cast

from pydantic import Field

from oodguard.core.frozen import Frozen

DEFAULT_ACCEPT = 0.95
DEFAULT_COVERAGE = 0.9
DEFAULT_MAX_ERROR = 0.05


class Asked(TypedDict, total=False):
    """Targets that a caller names, for one call or for a server; the others stay as they are, as does None."""

    accept: float | None
    confidence: float | None
    coverage: float | None
    max_error: float | None


TARGET_NAMES = tuple(Asked.__annotations__)

# What a command takes for each of them; None leaves it to the bundle.
AcceptOption = Annotated[
    float | None, Field(gt=0, lt=1, description="Target acceptance of ID images; default: the bundle's (0.95).")
]
ConfidenceOption = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="How sure the target acceptance is to be kept; default: the bundle's (none: kept on average).",
    ),
]
CoverageOption = Annotated[
    float | None,
    Field(gt=0, lt=1, description="Chance that a label set holds the true class; default: the bundle's (0.9)."),
]
MaxErrorOption = Annotated[
    float | None,
    Field(gt=0, lt=1, description="Largest share of wrong labels among answers; default: the bundle's (0.05)."),
]


class Targets(Frozen):
    """What thresholds, label sets and decisions are to keep.

    ```python
    Targets(accept=0.99, confidence=0.9)
    ```
    """

    accept: float = Field(
        DEFAULT_ACCEPT, gt=0, lt=1, description="Target acceptance: the share of ID images that should pass."
    )
    confidence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="How sure the target acceptance is to be kept, over calibration sets; none: kept on average.",
    )
    coverage: float = Field(
        DEFAULT_COVERAGE, gt=0, lt=1, description="The chance that a label set holds the true class."
    )
    max_error: float = Field(
        DEFAULT_MAX_ERROR, gt=0, lt=1, description="The largest share of wrong labels among the images answered."
    )

    def but(self, **asked: Unpack[Asked]) -> Self:
        """The same targets where nothing else is asked for.

        Raises `ValueError` for a target out of its range, and `TypeError` for a name that is none.
        """
        given = named(**asked)
        for name, value in given.items():
            if not 0.0 < value < 1.0:
                raise ValueError(f"{name} must be above 0 and below 1; got {value:g}")
        return type(self)(**{**self.model_dump(), **given}) if given else self


def named(**asked: Unpack[Asked]) -> dict[str, float]:
    """The targets that are asked for, by name. Raises `TypeError` for a name that is none."""
    unknown = sorted(asked.keys() - set(TARGET_NAMES))
    if unknown:
        raise TypeError(f"there is no argument {unknown[0]!r}; the targets are {', '.join(TARGET_NAMES)}")
    return {name: value for name, value in cast("dict[str, float | None]", asked).items() if value is not None}
