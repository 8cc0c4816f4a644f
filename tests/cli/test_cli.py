"""The command line as a person meets it: one sentence, a fitting exit code, never a traceback."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from PIL import Image

from oodguard.clients import AsyncClient, Client, Result
from oodguard.load_tests.gateway import Gateway
from oodguard.server.settings import ServeSettings
from oodguard.training import run as runs
from tests.cli.terminal import call


def small(photos: Path, cache: Path) -> list[object]:
    return [
        "train", "--data", photos, "--cache", cache, "--image-size", 64, "--views", 0, "--no-fine-tune", "--epochs", 1,
        "--hidden", 8, "--calibration-fraction", 0.33,
    ]  # fmt: skip


def test_train_evaluate_export_with_unreadable_images(
    capsys: pytest.CaptureFixture[str],
    photos: Path,
    strangers: Path,
    tmp_path: Path,
    cache: Path,
    parse_page: Callable[[str], Element],
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "train" / "jade" / "broken.jpg").write_bytes(b"junk")
    (data / "train" / "jade" / "empty.png").write_bytes(b"")
    code, _, err = call(capsys, *small(data, cache), "--out", tmp_path / "r", "--on-unreadable", "refuse")
    assert code == 2
    assert "2 of 182 images cannot be read" in err
    assert not list(tmp_path.glob("r*"))
    code, out, _ = call(capsys, *small(data, cache), "--out", tmp_path / "r")
    assert code == 0, out
    assert "skipped 2 unreadable images" in out
    code, out, _ = call(capsys, "evaluate", tmp_path / "r", "--ood", f"noise={strangers}")
    assert code == 0, out
    assert "noise (12 images)" in out
    assert "Against thirty lines of scikit-learn on the frozen feature" in out
    assert "on noise level (0.0" in " ".join(out.split()).replace("\N{NO-BREAK SPACE}", " ")
    assert "baseline: larger of both ranks" in out
    saved = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    auroc = saved["ood"]["noise"]["scores"]["fused"]["auroc"]
    assert auroc > 0.95
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    parse_page(page)
    assert f"{100 * auroc:.1f} (" in page
    assert "oodguard evaluate" in saved["command"]
    assert "noise=" in saved["command"]
    code, out, _ = call(capsys, "export", tmp_path / "r", "--out", tmp_path / "b", "--name", "mine")
    assert code == 0, out
    assert "mine version 1" in out
    for arguments, word in (
        (["--ood", "noise"], "name=folder"),
        (["--ood", f"a={strangers}", "--ood", f"a={strangers}"], "twice"),
        (["--ood", f"ID test={strangers}"], "cannot be the name"),
        (["--ood", "a=absent"], "--ood a: absent does not exist"),
        (["--accept", "0.9999"], "at most"),
    ):
        code, _, err = call(capsys, "evaluate", tmp_path / "r", *arguments)
        assert code == 2
        assert word in err
    # A photo that the run did not use may go; one that it is tested on may not.
    (data / "train" / "jade" / "empty.png").unlink()
    assert call(capsys, "evaluate", tmp_path / "r")[0] == 0
    next((data / "test" / "jade").iterdir()).unlink()
    code, _, err = call(capsys, "evaluate", tmp_path / "r")
    assert code == 2
    assert "1 of the" in err
    assert "photos that the run used are missing" in err


def test_a_full_disk_and_an_interruption_leave_nothing_behind(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "write_weights", full)
    code, _, err = call(capsys, *small(photos, cache), "--out", tmp_path / "r")
    assert code == 3
    assert "No space left" in err

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "write_weights", interrupt)
    assert call(capsys, *small(photos, cache), "--out", tmp_path / "r")[0] == 130
    assert list(tmp_path.iterdir()) == []


def test_runs_of_another_version_are_refused(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "format": 9}))
    code, _, err = call(capsys, "export", copy, "--out", tmp_path / "b")
    assert code == 2
    assert "train it again" in err
    (copy / "run.json").write_text(json.dumps(record))
    (copy / "weights.safetensors").write_bytes(b"junk")
    code, _, err = call(capsys, "export", copy, "--out", tmp_path / "b")
    assert code == 2
    assert "weights.safetensors" in err


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[str]:
    """A real `oodguard serve` process on a free port."""
    gateway = Gateway(bundle).start()
    yield gateway.url
    assert gateway.stop() == 0, gateway.output()
    assert "curl -F image=@" in gateway.output()
    assert "Traceback" not in gateway.output()


def test_serve_on_a_taken_port_is_one_sentence(capsys: pytest.CaptureFixture[str], server: str, bundle: Path) -> None:
    taken = server.rsplit(":", 1)[1]
    code, _, err = call(capsys, "serve", bundle, "--port", taken, "--admin-port", "0")
    assert code == 3
    assert f"cannot listen on 127.0.0.1 port {taken}: Address already in use; choose another with --port" in err
    code, _, err = call(capsys, "serve", bundle, "--port", "0", "--admin-port", taken)
    assert code == 3
    assert "choose another with --admin-port" in err
    elsewhere = ("serve", bundle, "--port", "0", "--admin-port", "0", "--admin-host", "192.0.2.1")
    code, _, err = call(capsys, *elsewhere)
    assert code == 2
    assert "whoever reaches it may reload the bundle" in err
    code, _, err = call(capsys, *elsewhere, "--auth", "none")
    assert code == 3
    assert "choose another with --admin-host" in err


def test_serve_refuses_a_changed_bundle_in_one_line(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    graph = copy / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"x")
    code, _, err = call(capsys, "serve", copy, "--port", "0")
    assert code == 2
    assert "SHA-256" in err


def test_samples_writes_one_of_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, _ = call(capsys, "samples", "--out", tmp_path / "s", "--cache", tmp_path / "c")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["in_distribution.png", "out_of_distribution.jpg"]
    digits = tmp_path / "c" / "digits"
    assert [len(list((digits / split).rglob("*.png"))) for split in ("train", "test")] == [1347, 450]


def test_clients_stream_every_kind_of_image_in_order(server: str, photos: Path, tmp_path: Path) -> None:
    files = sorted((photos / "test" / "amber").glob("*.jpg"))[:3]
    with Image.open(files[0]) as opened:
        picture = opened.convert("RGB")
    images = [*files, files[1].read_bytes(), picture, np.asarray(picture), b"junk", tmp_path / "absent.jpg", files[2]]

    async def gather() -> list[Result]:
        async with AsyncClient(server) as client:
            return [result async for result in client.stream(iter(images), concurrency=3)]

    with Client(server) as client:
        found = list(client.stream(iter(images), concurrency=3))
        whole = client.predict(files, top_k=1)
    assert [result.image is image for result, image in zip(found, images, strict=True)] == [True] * 9
    assert [result.problem and result.problem.code for result in found[6:8]] == ["unsupported_type", "not_found"]
    scores = [result.prediction.ood_score if result.prediction else 0.0 for result in found]
    same = [p.ood_score for p in whole.predictions]
    assert scores == pytest.approx([*same, same[1], same[0], same[0], 0.0, 0.0, same[2]], abs=1e-4)
    again = asyncio.run(gather())
    assert [r.problem for r in again] == [r.problem for r in found]
    assert [r.prediction and r.prediction.label for r in again] == [r.prediction and r.prediction.label for r in found]


def test_the_commands_that_export_prints_run_side_by_side(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    code, out, _ = call(capsys, "export", bundle, "--triton", tmp_path / "models", "--triton-backend", "python")
    assert code == 0
    command = out.partition("then: oodguard serve ")[2].split()
    flags = dict(zip(command[1::2], command[2::2], strict=True))
    settings = ServeSettings(
        bundle=Path(command[0]),
        engine="triton",
        triton_url=flags["--triton-url"],
        port=int(flags["--port"]),
        admin_port=int(flags["--admin-port"]),
    )
    assert settings.bundle == bundle
    # Triton's own.
    assert {settings.port, settings.admin_port}.isdisjoint({8000, 8001, 8002})
