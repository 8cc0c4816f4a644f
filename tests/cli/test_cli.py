"""The command line as a person meets it: one sentence, a fitting exit code, never a traceback."""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from PIL import Image

from oodguard.cli.main import run as run_command
from oodguard.clients import AsyncClient, Client, Result
from oodguard.load_tests.gateway import Gateway
from oodguard.server.settings import ServeSettings
from oodguard.training import run as runs
from tests.cli.terminal import call
from tests.nearby import Nearby


def small(photos: Path, cache: Path) -> list[object]:
    return [
        "train", "--data", photos, "--cache", cache, "--image-size", 64, "--views", 0, "--no-tune", "--epochs", 1,
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
        (["--ood", "a=absent"], "not a folder"),
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


def test_predict_prints_a_table(
    capsys: pytest.CaptureFixture[str], server: str, photos: Path, strangers: Path, tmp_path: Path
) -> None:
    image = tmp_path / '[red]a, "b".jpg'
    shutil.copyfile(photos / "test" / "amber" / "000.jpg", image)
    code, out, _ = call(capsys, "predict", image, strangers, "--url", server)
    assert code == 0
    assert out.count(" stranger ") == 12
    for heading in ("path", "label", "probability", "decision", "ood_score", "threshold"):
        assert heading in out
    assert "[red]a" in "".join(out.split())


def test_predict_prints_one_json_object_a_line(server: str, photos: Path, strangers: Path) -> None:
    command = [sys.executable, "-m", "oodguard.cli", "predict", photos / "test" / "amber" / "000.jpg", strangers]
    ran = subprocess.run([*command, "--url", server, "--json"], capture_output=True, text=True, check=True)
    with Client(server) as client:
        expected = list(client.stream([photos / "test" / "amber" / "000.jpg", *sorted(strangers.rglob("*.png"))]))
    assert len(expected) == 13
    for line, result in zip(ran.stdout.splitlines(), expected, strict=True):
        found, prediction = json.loads(line), result.prediction
        assert prediction is not None
        assert (found["path"], found["label"], found["is_ood"]) == (
            str(result.image),
            prediction.label,
            prediction.is_ood,
        )
        assert set(found["scores"]) == set(prediction.scores)
    assert ran.stderr == ""


def test_predict_prints_csv_that_spreadsheets_read(server: str, photos: Path, tmp_path: Path) -> None:
    awkward = tmp_path / 'a, "b".jpg'
    shutil.copyfile(photos / "test" / "amber" / "000.jpg", awkward)
    command = [sys.executable, "-m", "oodguard.cli", "predict", awkward, photos / "test" / "plum", "--url", server]
    ran = subprocess.run([*command, "--csv", "--accept", "0.9"], capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert len(rows) == 16
    assert (rows[0]["path"], rows[0]["label"]) == (str(awkward), "amber")
    for row in rows:
        assert row["is_ood"] == ("true" if float(row["ood_score"]) > float(row["threshold"]) else "false")
        assert 0 < float(row["probability"]) <= 1
    with Client(server) as client:
        stricter = client.predict([awkward], accept=0.9).predictions[0]
    assert float(rows[0]["threshold"]) == pytest.approx(stricter.threshold)


def test_names_act_neither_on_the_terminal_nor_on_a_spreadsheet(
    capsys: pytest.CaptureFixture[str], server: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.jpg", "@SUM(A1).jpg", "a\x1b[2Jb\u202ec.jpg", b"caf\xe9.jpg".decode("utf-8", "surrogateescape")]
    for name in names:
        shutil.copyfile(photos / "test" / "amber" / "000.jpg", name)
    bad = "bad\x1b[8m\r:cat:[red].jpg"
    Path(bad).write_bytes(b"junk")
    given = ["--url", server, "--", *names, bad]
    for form in ([], ["--json"], ["--csv"]):
        assert run_command(["predict", *form, *given]) == 1
        found = capsys.readouterr()
        assert set(found.out.replace("\r\n", "\n") + found.err).isdisjoint({"\x1b", "\r", "\u202e", "\x9b"})
        assert r"bad\x1b[8m\x0d:cat:[red].jpg: not an image" in found.err
        match form:
            case []:
                assert r"a\x1b[2Jb\u202ec.jpg" in found.out
            case ["--json"]:
                assert [json.loads(line)["path"] for line in found.out.splitlines()] == [*names, bad]
            case ["--csv"]:
                rows = list(csv.DictReader(io.StringIO(found.out)))
                shown = ["'=1+1.jpg", "'@SUM(A1).jpg", r"a\x1b[2Jb\u202ec.jpg", r"caf\xe9.jpg"]
                assert [row["path"] for row in rows] == [*shown, r"bad\x1b[8m\x0d:cat:[red].jpg"]
                assert (rows[-1]["error_code"], rows[-1]["label"]) == ("unsupported_type", "")


def test_predict_score_and_the_api_name_the_same_things_alike(
    capsys: pytest.CaptureFixture[str], server: str, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    image = photos / "test" / "amber" / "000.jpg"
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"junk")
    (tmp_path / "list.txt").write_text(f"{image}\n{bad}\n")
    assert run_command(["score", str(bundle), str(tmp_path / "list.txt"), "--out", str(tmp_path / "r.csv")]) == 1
    capsys.readouterr()
    assert run_command(["predict", str(image), str(bad), "--url", server, "--csv"]) == 1
    asked = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    with (tmp_path / "r.csv").open(newline="") as stream:
        scored = list(csv.DictReader(stream))
    for row in scored:
        assert row.pop("member") == ""
    assert list(asked[0]) == list(scored[0])
    with Client(server) as client:
        answer = client.predict(image).predictions[0].model_dump(mode="json")
    scores = {
        f"{name}_{field}": score[field] for name, score in answer["scores"].items() for field in ("value", "is_ood")
    }
    expected = {"path": str(image), **answer, **scores, "error_code": "", "error_detail": ""}
    for row in (asked[0], scored[0]):
        for name, text in row.items():
            match expected[name]:
                case bool(flag):
                    assert text == str(flag).lower(), name
                case float(number):
                    assert float(text) == pytest.approx(number, rel=1e-4, abs=1e-4), name
                case [*labels]:
                    assert text == "|".join(labels), name
                case words:
                    assert text == words, name
    assert asked[1] == scored[1]
    assert asked[1]["error_code"] == "unsupported_type"


def test_predict_and_score_explain_alike(
    capsys: pytest.CaptureFixture[str], server: str, bundle: Path, nearby: Nearby, strangers: Path, tmp_path: Path
) -> None:
    images = [nearby.files()[0], next(strangers.rglob("*.png"))]
    (tmp_path / "list.txt").write_text("\n".join(map(str, images)))
    given = ["score", tmp_path / "list.txt", "--out", tmp_path / "r.csv", "--explain"]
    assert call(capsys, given[0], bundle, *given[1:])[0] == 0
    assert run_command(["predict", *map(str, images), "--url", server, "--csv", "--explain"]) == 0
    asked = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    with (tmp_path / "r.csv").open(newline="") as stream:
        scored = list(csv.DictReader(stream))
    assert [name for name in scored[0] if name != "member"] == list(asked[0])
    for one, other in zip(asked, scored, strict=True):
        for name in ("decided_by", "neighbour1_label", "neighbour1_sha256", "neighbour2_label", "neighbour3_sha256"):
            assert one[name] == other[name]
        assert float(one["neighbour1_distance"]) == pytest.approx(float(other["neighbour1_distance"]), abs=1e-4)
    assert asked[0]["neighbour1_sha256"] == nearby.run.bank.sha256[0]
    assert run_command(["predict", str(images[0]), "--url", server, "--json", "--explain"]) == 0
    found = json.loads(capsys.readouterr().out)
    nearby.require([images[0].read_bytes()], [found["explanation"]])
    assert run_command(["predict", str(images[0]), "--url", server, "--json"]) == 0
    assert "explanation" not in json.loads(capsys.readouterr().out)
    code, out, _ = call(capsys, "predict", images[0], "--url", server, "--explain")
    assert code == 0
    for word in ("decided", "nearest", nearby.own[0].label, "0.000"):
        assert word in out


def test_predict_says_by_its_exit_code_whether_something_was_strange(
    capsys: pytest.CaptureFixture[str], server: str, photos: Path, strangers: Path, tmp_path: Path
) -> None:
    image = photos / "test" / "amber" / "000.jpg"
    assert call(capsys, "predict", image, strangers, "--url", server, "--fail-on-ood")[0] == 10
    assert call(capsys, "predict", image, "--url", server, "--fail-on-ood")[0] == 0
    assert call(capsys, "predict", strangers, "--url", server)[0] == 0
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    # An image without a verdict is worse than one that is out of distribution.
    assert call(capsys, "predict", strangers, tmp_path / "bad.jpg", "--url", server, "--fail-on-ood")[0] == 1
    code, _, err = call(capsys, "predict", image, "--url", server, "--accept", "0.99999")
    assert (code, "at most" in err) == (2, True), err
    code, _, err = call(capsys, "predict", image, "--url", server, "--json", "--csv")
    assert (code, "choose one" in err) == (2, True)


def test_predict_names_what_failed_and_shows_the_rest(
    capsys: pytest.CaptureFixture[str], server: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    code, out, err = call(capsys, "predict", photos / "test" / "amber" / "001.jpg", tmp_path, "--url", server)
    assert code == 1
    assert "amber" in out
    assert "bad.jpg: not an image of a supported type" in err
    code, _, err = call(capsys, "predict", tmp_path / "bad.jpg", "--url", server)
    assert code == 1
    assert "supported type" in err
    (tmp_path / "bad.jpg").unlink()
    assert call(capsys, "predict", tmp_path, "--url", server)[0] == 2
    code, _, err = call(capsys, "predict", photos / "test" / "amber" / "001.jpg", "--url", "http://127.0.0.1:9")
    assert code == 3
    assert "cannot be reached" in err


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
