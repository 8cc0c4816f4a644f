"""`oodguard predict` as a person meets it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodguard.cli.main import run as run_command
from oodguard.clients import Client
from oodguard.clients.calls import CONCURRENCY
from oodguard.load_tests.gateway import Gateway
from oodguard.server.keys import digest, new_key
from tests.cli.terminal import call
from tests.nearby import Nearby


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
    code, out, err = call(capsys, "predict", image, strangers, "--url", server)
    assert code == 0
    assert out.count(" stranger ") == 12
    assert re.search(r"13 images: 1 known( \(1 of them unsure of the label\))?, 12 strangers$", out)
    assert err == ""
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
        assert {name for name in found if name.endswith("_value")} == {f"{name}_value" for name in prediction.scores}
    assert re.fullmatch(r"13 images: 1 known.*, 12 strangers\n", ran.stderr)
    quiet = subprocess.run([*command, "--url", server, "--json", "--quiet"], capture_output=True, text=True, check=True)
    assert (len(quiet.stdout.splitlines()), quiet.stderr) == (13, "")


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
    monkeypatch.setenv("COLUMNS", "200")
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
    assert list(asked[0]) == list(scored[0])
    assert run_command(["score", str(bundle), str(tmp_path / "list.txt"), "--out", str(tmp_path / "r.jsonl")]) == 1
    capsys.readouterr()
    assert run_command(["predict", str(image), str(bad), "--url", server, "--json"]) == 1
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [list(row) for row in printed] == [list(row) for row in lines]
    assert [row["error_code"] for row in printed] == [None, "unsupported_type"]
    assert printed[1] == lines[1]
    with Client(server) as client:
        answer = client.predict(image).predictions[0].model_dump(mode="json")
    scores = {
        f"{name}_{field}": score[field] for name, score in answer["scores"].items() for field in ("value", "is_ood")
    }
    quality = {f"quality_{field}": "" if value is None else value for field, value in answer["quality"].items()}
    expected = {"path": str(image), "member": "", **answer, **scores, **quality, "error_code": "", "error_detail": ""}
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
    assert list(scored[0]) == list(asked[0])
    for one, other in zip(asked, scored, strict=True):
        for name in ("decided_by", "neighbour1_label", "neighbour1_sha256", "neighbour2_label", "neighbour3_sha256"):
            assert one[name] == other[name]
        assert float(one["neighbour1_distance"]) == pytest.approx(float(other["neighbour1_distance"]), abs=1e-4)
    assert asked[0]["neighbour1_sha256"] == nearby.run.bank.sha256[0]
    assert run_command(["predict", str(images[0]), "--url", server, "--json", "--explain"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["neighbour1_sha256"] == nearby.run.bank.sha256[0]
    assert found["decided_by"] == asked[0]["decided_by"]
    assert run_command(["predict", str(images[0]), "--url", server, "--json"]) == 0
    assert "decided_by" not in json.loads(capsys.readouterr().out)
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
    # A row of the table, too.
    assert "│ failed │" in out
    assert out.endswith("0 strangers, 1 could not be used")
    code, _, err = call(capsys, "predict", tmp_path / "bad.jpg", "--url", server)
    assert code == 1
    assert "supported type" in err
    (tmp_path / "bad.jpg").unlink()
    assert call(capsys, "predict", tmp_path, "--url", server)[0] == 2
    code, _, err = call(capsys, "predict", photos / "test" / "amber" / "001.jpg", "--url", "http://127.0.0.1:9")
    assert code == 3
    assert "cannot be reached" in err
    assert "; --url names the server, and oodguard serve starts one" in err


def test_predict_stops_at_the_first_refused_key_and_names_the_option(
    capsys: pytest.CaptureFixture[str], bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    images = photos / "test"
    with Gateway(bundle, "--key-hashes", f"alice:{digest(key)}", "--log-level", "info") as gateway:
        code, out, err = call(capsys, "predict", images, "--url", gateway.url)
        assert (code, out) == (2, "")
        assert err == f"error: {gateway.url} needs an API key; give it with --key or in OODGUARD_PREDICT_KEY"
        code, out, err = call(capsys, "predict", images, "--url", gateway.url, "--key", "wrong")
        assert (code, out) == (2, "")
        assert err.endswith("does not know this API key; give another one with --key or in OODGUARD_PREDICT_KEY")
        # Of 45 images each, no more than were under way at once.
        refused = gateway.count("oodguard_requests", "route", "status")["/predict", "401"]
        assert 2 <= refused <= 4 * CONCURRENCY
        monkeypatch.setenv("OODGUARD_PREDICT_KEY", key)
        code, out, _ = call(capsys, "predict", images, "--url", gateway.url)
        assert code == 0
        assert "45 images: " in out
