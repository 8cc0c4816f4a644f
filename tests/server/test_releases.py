"""Releases: promoted by one rename, verified before, rolled back, and taken over by a real server."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from oodguard.core.errors import EnvironmentProblem, FormatError, InputError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import GRAPH_FILE, MANIFEST_FILE, Manifest, load_manifest
from oodguard.load_tests.process import wait_until
from oodguard.server.releases import HISTORY_FILE, Promotion, Releases, served_before
from tests.cli.terminal import call


@pytest.fixture
def bundles(bundle: Path, newer: Path, tmp_path: Path) -> Path:
    """Two releases, and things that are none."""
    folder = tmp_path / "bundles"
    shutil.copytree(bundle, folder / "discs-7")
    shutil.copytree(newer, folder / "discs-8")
    (folder / "notes").mkdir()
    (folder / "discs-9.partial").mkdir()
    shutil.copyfile(bundle / MANIFEST_FILE, folder / "discs-9.partial" / MANIFEST_FILE)
    return folder


def test_a_promotion_is_a_relative_link_and_a_line_of_the_history(bundles: Path) -> None:
    releases = Releases(bundles)
    assert releases.serving() is None
    done = releases.promote("discs-7")
    assert (done.release, done.name, done.version) == ("discs-7", "discs", "7")
    assert (bundles / "current").readlink() == Path("discs-7")
    assert releases.promote("8").release == "discs-8"
    assert load_manifest(bundles / "current").version == "8"
    serving = releases.serving()
    assert serving is not None
    assert serving.release == "discs-8"
    assert [(one.action, one.release, one.sha256) for one in releases.history] == [
        ("promote", "discs-7", file_sha256(bundles / "discs-7" / MANIFEST_FILE)),
        ("promote", "discs-8", file_sha256(bundles / "discs-8" / MANIFEST_FILE)),
    ]
    # What is served already is no promotion more.
    releases.promote("discs-8")
    assert len(releases.history) == 2
    assert sorted(path.name for path in bundles.iterdir() if "partial" in path.name) == ["discs-9.partial"]
    # Elsewhere, as in a pod, the link leads to the same release.
    moved = bundles.rename(bundles.with_name("mounted"))
    assert load_manifest(moved / "current").version == "8"


def test_a_rollback_goes_back_step_by_step(bundle: Path, bundles: Path) -> None:
    shutil.copytree(bundle, bundles / "other")
    releases = Releases(bundles)
    with pytest.raises(InputError, match="has served no release before this one"):
        releases.rollback()
    for name in ("discs-7", "discs-8", "other"):
        releases.promote(name)
    assert [releases.rollback().release for _ in range(2)] == ["discs-8", "discs-7"]
    with pytest.raises(InputError, match="has served no release before this one"):
        releases.rollback()
    assert (bundles / "current").readlink() == Path("discs-7")
    releases.promote("other")
    assert releases.rollback().release == "discs-7"
    assert [one.action for one in releases.history] == ["promote"] * 3 + ["rollback"] * 2 + ["promote", "rollback"]


def promotion(action: Any, release: str) -> Promotion:
    return Promotion(time="t", action=action, release=release, name="n", version="1", sha256="s")


@pytest.mark.parametrize(
    ("actions", "expected"),
    [("", None), ("a", None), ("ab", "a"), ("ab<", None), ("abc<", "a"), ("abc<<", None), ("ab<c", "a"), ("aba", "b")],
)
def test_what_was_served_before(actions: str, expected: str | None) -> None:
    history = [promotion("rollback" if one == "<" else "promote", one) for one in actions]
    found = served_before(history)
    assert (found.release if found else None) == expected


def changed_graph(folder: Path) -> None:
    """A graph that answers otherwise, with hashes that fit."""
    model = onnx.load(folder / GRAPH_FILE)
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weights)
    noise = np.random.default_rng(0).normal(size=values.shape) * values.std()
    weights.CopyFrom(onnx.numpy_helper.from_array((values + noise).astype(values.dtype), weights.name))
    onnx.save(model, folder / GRAPH_FILE)
    record = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    for ref in record["files"]:
        path = folder / ref["path"]
        ref.update(bytes=path.stat().st_size, sha256=file_sha256(path))
    (folder / MANIFEST_FILE).write_text(Manifest.model_validate(record).model_dump_json(), encoding="utf-8")


def test_what_does_not_load_is_not_promoted(bundle: Path, bundles: Path) -> None:
    releases = Releases(bundles)
    releases.promote("discs-7")
    for name in ("hash", "answers", "torn"):
        shutil.copytree(bundle, bundles / name)
    with (bundles / "hash" / GRAPH_FILE).open("ab") as stream:
        stream.write(b"x")
    changed_graph(bundles / "answers")
    (bundles / "torn" / MANIFEST_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match=r"model.onnx in .*hash was changed after export"):
        releases.promote("hash")
    with pytest.raises(QualityError, match="answers does not answer as it was exported"):
        releases.promote("answers")
    with pytest.raises(FormatError, match="is not valid JSON"):
        releases.promote("torn")
    assert (bundles / "current").readlink() == Path("discs-7")
    assert len(releases.history) == 1
    faults = {one.release: one.fault for one in releases.all() if one.fault}
    assert set(faults) == {"hash", "torn"}


def test_a_release_that_was_changed_or_removed_is_not_rolled_back_to(bundles: Path) -> None:
    releases = Releases(bundles)
    for name in ("discs-7", "discs-8"):
        releases.promote(name)
    manifest = load_manifest(bundles / "discs-7")
    path = bundles / "discs-7" / MANIFEST_FILE
    path.write_text(manifest.model_copy(update={"version": "7a"}).model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="discs-7 is not what was served before: its manifest has changed since"):
        releases.rollback()
    shutil.rmtree(bundles / "discs-7")
    with pytest.raises(InputError, match="discs-7 was served before, and is not in"):
        releases.rollback()
    assert (bundles / "current").readlink() == Path("discs-8")


def test_copies_serve_where_links_cannot_be_made(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    releases = Releases(bundles)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", refuse)
        with pytest.raises(EnvironmentProblem, match="takes no links; add --copy"):
            releases.promote("discs-7")
        releases.promote("discs-7", copy=True)
        assert not (bundles / "current").is_symlink()
        # A folder stays a folder, without another word.
        releases.promote("discs-8")
    assert load_manifest(bundles / "current").version == "8"
    serving = releases.serving()
    assert serving is not None
    assert serving.release == "discs-8"
    assert releases.rollback().release == "discs-7"
    assert load_manifest(bundles / "current").version == "7"
    assert not (bundles / "current").is_symlink()
    assert {path.name for path in bundles.iterdir()} >= {"current", "discs-7", "discs-8"}
    assert not list(bundles.glob("current.*"))


def test_somebody_elses_folder_is_left_alone(bundles: Path) -> None:
    (bundles / "current").mkdir()
    (bundles / "current" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(InputError, match="current is not a bundle; choose another --served"):
        Releases(bundles).promote("discs-7")
    assert (bundles / "current" / "letter.txt").read_text(encoding="utf-8") == "dear"
    assert Releases(bundles, served="live").promote("discs-7").release == "discs-7"
    assert (bundles / "live").is_symlink()


def test_whoever_opens_the_link_meanwhile_finds_a_whole_bundle(bundles: Path) -> None:
    releases = Releases(bundles)
    releases.promote("discs-7")
    stop, seen = threading.Event(), set()

    def reader() -> None:
        while not stop.is_set():
            seen.add(json.loads((bundles / "current" / MANIFEST_FILE).read_text(encoding="utf-8"))["version"])

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for turn in range(200):
            releases._link(bundles / f"discs-{7 + turn % 2}")
    finally:
        stop.set()
        thread.join()
    assert seen
    assert seen <= {"7", "8"}


def test_one_promotion_at_a_time(bundles: Path) -> None:
    with Releases(bundles)._locked(), pytest.raises(EnvironmentProblem, match=r"another promotion in .* is under way"):
        Releases(bundles).promote("discs-7")
    assert not (bundles / "current").exists()


def test_a_server_takes_over_what_is_promoted_and_rolled_back(server: Callable[..., Any], bundles: Path) -> None:
    releases = Releases(bundles)
    releases.promote("discs-7")
    # Longer than a test: the link is seen because the kernel tells.
    running = server("--watch-interval", "3600", folder=bundles / "current")
    for change, version in ((lambda: releases.promote("discs-8"), "8"), (releases.rollback, "7")):
        change()
        line = f'oodguard_model_info{{name="discs",version="{version}"}} 1.0'
        wait_until(lambda line=line: line in running.metrics(), 20)  # type: ignore[misc]
    assert running.sample('oodguard_reloads_total{result="refused"}') == 0


def test_the_command_lists_promotes_and_rolls_back(
    capsys: pytest.CaptureFixture[str], bundle: Path, bundles: Path
) -> None:
    shutil.copytree(bundle, bundles / "broken")
    (bundles / "broken" / GRAPH_FILE).unlink()
    code, out, _ = call(capsys, "releases", bundles)
    assert code == 0
    assert "broken cannot be served:" in out
    assert "model.onnx is missing" in out
    assert "current does not exist yet: oodguard releases" in out
    for version in ("7", "discs-8"):
        code, out, _ = call(capsys, "releases", bundles, "promote", version)
        assert code == 0
    assert "current is now discs-8, discs version 8 (SHA-256 " in out
    code, out, _ = call(capsys, "releases", bundles)
    assert "served discs-8 discs 8 fp32" in out
    code, out, _ = call(capsys, "releases", bundles, "rollback")
    assert (code, "is now discs-7, discs version 7" in out) == (0, True)
    code, out, _ = call(capsys, "releases", bundles, "history")
    assert [word for word in out.split() if word in ("promote", "rollback")] == ["promote", "promote", "rollback"]


def test_what_cannot_be_promoted_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], bundle: Path, bundles: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, bundles / "twin")
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        ((tmp_path / "none",), "does not exist; name a folder that holds bundles"),
        ((bundle,), "is a bundle; name the folder that holds it"),
        ((tmp_path / "empty",), "holds no bundle; oodguard export writes one"),
        ((bundles, "promote", "9"), "has no release '9'; there are discs-7, discs-8, twin"),
        ((bundles, "promote", "7"), "version 7 is in discs-7 and twin; name one of these folders"),
        ((bundles, "promote", "notes"), "has no release 'notes'"),
        ((bundles, "promote"), "name the bundle to serve"),
        ((bundles, "rollback", "7"), "rollback takes no release; leave it out"),
        ((bundles, "--served", "../elsewhere"), "--served is a name inside"),
        ((bundles, "list", "--copy"), "--copy is for promote and rollback"),
    ):
        code, _, error = call(capsys, "releases", *words)
        assert (code, sentence in error) == (2, True), error
    (bundles / HISTORY_FILE).write_text("{}\n", encoding="utf-8")
    code, _, error = call(capsys, "releases", bundles, "promote", "discs-7")
    assert (code, "releases.jsonl is damaged" in error) == (2, True)
    assert not (bundles / "current").exists()
