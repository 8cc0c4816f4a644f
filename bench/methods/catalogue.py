"""Every method by name.

To add a method, write a module of this folder with its instances and list them in `METHODS`; a test fails for a method
that is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oodguard.bench.baselines.catalogue import POST_HOC
from oodguard.bench.methods.anchored import ANCHORED_METHODS
from oodguard.bench.methods.classifier import Single
from oodguard.bench.methods.ensembles import ENSEMBLE_METHODS
from oodguard.bench.methods.fused import FusedMethod
from oodguard.bench.methods.gaussian import GAUSSIAN_METHODS
from oodguard.bench.methods.method import Method
from oodguard.bench.methods.outliers import OUTLIER_METHODS
from oodguard.core.errors import InputError

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Single(),
        *ENSEMBLE_METHODS,
        *ANCHORED_METHODS,
        *OUTLIER_METHODS,
        *GAUSSIAN_METHODS,
        FusedMethod(),
    )
}

# The scores that stand for a method in a comparison; for any other method, the first that it gives.
HEADLINES: Mapping[str, tuple[str, ...]] = {
    "single": (*POST_HOC, "odin", "knn", "mahalanobis"),
    "energy": ("energy",),
    "greg": ("energy",),
    "greg-plus": ("energy",),
    "fused": ("fused",),
    **{method.name: ("pds", "one_minus_bma") for method in ENSEMBLE_METHODS},
}


def start_of(method: Method) -> Method | None:
    """The method whose trained detector `method` starts from."""
    return None if method.starts_from is None else METHODS[method.starts_from]


def chosen(names: Sequence[str]) -> list[Method]:
    """The methods of these names, each after the one it starts from, which is added where it is missing; all for none.

    Raises `InputError` for an unknown name.
    """
    ordered: dict[str, Method] = {}
    for name in names or METHODS:
        if name not in METHODS:
            raise InputError(f"there is no method {name!r}; methods: {', '.join(METHODS)}")
        before = start_of(METHODS[name])
        if before is not None:
            ordered.setdefault(before.name, before)
        ordered.setdefault(name, METHODS[name])
    return list(ordered.values())
