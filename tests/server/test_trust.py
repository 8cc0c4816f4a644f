"""A server that trusts a key takes no bundle that was changed after it was signed, whatever its hashes say."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import oodguard
from oodguard.cli.main import run
from oodguard.core.errors import FormatError
from oodguard.core.manifest import MANIFEST_FILE
from oodguard.core.signature import signature_of
from oodguard.server.errors import ReloadRefused
from tests.core.test_signature import key_pair
from tests.server.test_watch import until, watching


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path, "own")


@pytest.fixture
def signed(bundle: Path, tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    folder = tmp_path / "serving" / "bundle"
    shutil.copytree(bundle, folder)
    assert run(["sign", str(folder), "--key", str(keys[0])]) == 0
    return folder


def loosened(folder: Path) -> None:
    """Fewer images are to pass: every hash in the manifest still fits."""
    raw = json.loads((folder / MANIFEST_FILE).read_text())
    raw["targets"]["accept"] = 0.6
    raw["version"] = "8"
    (folder / MANIFEST_FILE).write_text(json.dumps(raw))


def test_only_signed_bundles_are_served_and_scored(
    signed: Path, keys: tuple[Path, Path], start: Any, tmp_path: Path, picture: Any, capsys: Any
) -> None:
    client = start(folder=signed, trust=keys[1])
    assert client.get("/health/ready").status_code == 200
    (tmp_path / "x.png").write_bytes(picture())
    score = ["score", str(signed), str(tmp_path / "x.png"), "--out", str(tmp_path / "o.csv"), "--trust", str(keys[1])]
    assert run(score) == 0
    oodguard.load(signed, trust=keys[1]).close()
    whole = (signed / MANIFEST_FILE).read_text()
    loosened(signed)
    with pytest.raises(ReloadRefused, match="the file was changed"):
        client.portal.call(client.parts.serving.reload)
    assert client.get("/health/ready").json()["model"]["version"] == "7"
    assert client.sample('oodguard_reloads_total{result="refused"}') == 1.0
    assert run([*score, "--overwrite"]) != 0
    assert "the file was changed" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(FormatError, match="the file was changed"):
        oodguard.load(signed, trust=keys[1])
    # Without a key to trust, numbers that no longer fit each other are still seen.
    with pytest.raises(FormatError, match="one of them was changed"):
        start(folder=signed)
    (signed / MANIFEST_FILE).write_text(whole)
    signature_of(signed / MANIFEST_FILE).unlink()
    with pytest.raises(FormatError, match="is not signed"):
        start(folder=signed, trust=keys[1])
    start(folder=signed)


def test_a_bundle_is_taken_once_its_signature_is_there(signed: Path, keys: tuple[Path, Path]) -> None:
    async def story() -> None:
        async with watching(bundle=signed, trust=keys[1]) as parts:
            refused = parts.metrics.reloads["refused"]._value
            text = (signed / MANIFEST_FILE).read_text()
            (signed / MANIFEST_FILE).write_text(text.replace('"version": "7"', '"version": "8"'))
            await until(lambda: refused.get() == 1)
            assert parts.serving.model.manifest.version == "7"
            assert run(["sign", str(signed), "--key", str(keys[0])]) == 0
            await until(lambda: parts.serving.model.manifest.version == "8")

    asyncio.run(story())
