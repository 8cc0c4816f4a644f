"""A seeded part of the fuzz run of `load_tests/fuzz.py`, and the specification turned against the server."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOAD_TESTS = Path(__file__).parents[2] / "load_tests"


@pytest.fixture(scope="module")
def hostile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile", LOAD_TESTS / "hostile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hostile"] = module
    spec.loader.exec_module(module)
    return module


def test_hostile_requests_never_get_a_5xx(client: Any, hostile: ModuleType) -> None:
    seen = set()
    for number, item in enumerate(itertools.islice(hostile.requests(seed=5), 1500)):
        headers = {"content-type": item.content_type}
        answer = client.post(item.path.format(name="discs"), content=item.body, headers=headers)
        assert answer.status_code in {200, 400, 413, 415, 422}, (number, answer.status_code, answer.text[:300])
        assert isinstance(answer.json(), dict)
        seen.add(answer.status_code)
    assert {200, 400, 415, 422} <= seen
    assert client.sample("oodguard_engine_errors_total") == 0.0
    assert client.parts.admission.images == 0
    assert client.get("/health/ready").status_code == 200


def test_every_file_of_the_corpus_gets_an_answer_or_its_own_error(client: Any, hostile: ModuleType) -> None:
    for data in hostile.corpus():
        answer = client.post("/predict", files=[("image", ("x", data))])
        assert answer.status_code in {200, 413, 415, 422}, (data[:40], answer.text[:300])


def test_schemathesis_finds_nothing(server: Any, tmp_path: Path) -> None:
    config = LOAD_TESTS / "schemathesis.toml"
    command = ["st", "--config-file", str(config), "run", f"{server().url}/openapi.json", "--max-examples", "15"]
    binary = Path(sys.executable).with_name(command[0])
    found = subprocess.run([str(binary), *command[1:]], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert found.returncode == 0, found.stdout[-4000:]
    assert "Tested: 16" in found.stdout


def test_the_same_seed_gives_the_same_requests(hostile: ModuleType) -> None:
    first, second = (list(itertools.islice(hostile.requests(seed=9), 50)) for _ in range(2))
    assert first == second
