"""No method is forgotten, and what is listed about methods is true."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

from oodguard.bench import methods
from oodguard.bench.methods.catalogue import HEADLINES, METHODS, chosen, start_of
from oodguard.bench.methods.method import Method
from oodguard.core.errors import InputError


def defined() -> Iterator[tuple[str, type, list[Method]]]:
    """Every class of the folder that is a method, with the instances its module holds."""
    for found in pkgutil.iter_modules(methods.__path__):
        module = importlib.import_module(f"{methods.__name__}.{found.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__ and value is not Method
            if own and {"build", "train", "__dataclass_fields__"} <= set(dir(value)):
                held = [item for group in vars(module).values() if isinstance(group, tuple) for item in group]
                yield module.__name__, value, [item for item in held if isinstance(item, value)]


def test_every_method_of_the_folder_is_in_the_catalogue() -> None:
    classes = list(defined())
    assert {name.rsplit(".", 1)[1] for name, _, _ in classes} >= {"classifier", "anchored", "fused"}
    for module, kind, instances in classes:
        listed = [method for method in METHODS.values() if isinstance(method, kind)]
        assert listed, f"{module}: no {kind.__name__} is listed in METHODS"
        for method in instances:
            assert METHODS.get(method.name) is method, f"{module}: {method.name} is missing from METHODS"


def test_names_are_unique_and_starts_exist_and_start_from_nothing() -> None:
    assert len({method.summary for method in METHODS.values()}) == len(METHODS)
    for name, method in METHODS.items():
        assert method.name == name
        before = start_of(method)
        assert before is None or start_of(before) is None
    assert set(HEADLINES) <= set(METHODS)


def test_a_method_follows_the_one_it_starts_from() -> None:
    assert [method.name for method in chosen(["amp-2", "ldr", "amp"])] == ["amp", "amp-2", "single", "ldr"]
    assert [method.name for method in chosen([])] == list(METHODS)
    with pytest.raises(InputError, match="there is no method 'magic'; methods: single, "):
        chosen(["ldr", "magic"])
