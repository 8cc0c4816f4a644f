"""The model repository: what lies where, several models and versions, and that nothing served is disturbed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from oodguard.cli.main import run as oodguard
from oodguard.core.errors import FormatError, InputError
from oodguard.core.golden import judged
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.targets import Targets
from oodguard.export.triton.options import TritonOptions
from oodguard.export.triton.repository import CONFIG_FILE, WARMUP_FOLDER, Placed, write_repository


def variant(bundle: Path, folder: Path, **changes: Any) -> Path:
    """The bundle with another manifest; the same files."""
    shutil.copytree(bundle, folder)
    manifest = load_manifest(bundle).model_copy(update=changes)
    manifest = manifest.model_copy(update={"golden": judged(manifest.golden, manifest.calibration, manifest.targets)})
    (folder / "manifest.json").write_text(Manifest.model_validate(manifest).model_dump_json())
    return folder


def config(home: Path) -> Any:
    return text_format.Parse((home / CONFIG_FILE).read_text(), schema.ModelConfig())


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: its inode and its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes()) for path in files}


def test_a_version_is_the_bundle_itself(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    assert write_repository(bundle, repository) == Placed("discs", 7, (7,))
    manifest = load_manifest(repository / "discs" / "7")
    assert manifest == load_manifest(bundle)
    assert (repository / "discs" / "7" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    assert not (repository / "discs" / "7" / "model.py").exists()
    found = config(repository / "discs")
    assert found.parameters["oodguard.7.graph_sha256"].string_value == manifest.graph_sha256
    warm = [sample.inputs["images"].input_data_file for sample in found.model_warmup]
    pixels = [load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing).tobytes() for g in manifest.golden]
    assert [(repository / "discs" / WARMUP_FOLDER / name).read_bytes() for name in warm[:-1]] == pixels
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert [path.name for path in repository.iterdir()] == ["discs"]


def test_a_new_version_touches_nothing_of_the_old_one(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(bundle, repository)
    before = everything(repository / "discs" / "7")
    inode = (repository / "discs" / CONFIG_FILE).stat().st_ino
    assert write_repository(variant(bundle, tmp_path / "b", version="8"), repository) == Placed("discs", 8, (7, 8))
    assert write_repository(variant(bundle, tmp_path / "c", version="spring"), repository).number == 9
    assert everything(repository / "discs" / "7") == before
    assert (repository / "discs" / CONFIG_FILE).stat().st_ino != inode, "renamed into place, not written over"
    names = {name for name in config(repository / "discs").parameters if name.endswith("sha256")}
    assert names == {"oodguard.8.graph_sha256", "oodguard.9.graph_sha256"}
    write_repository(bundle, repository, TritonOptions(policy="all"))
    names = {name for name in config(repository / "discs").parameters if name.endswith("sha256")}
    assert names == {f"oodguard.{number}.graph_sha256" for number in (7, 8, 9)}


def test_several_models_share_a_repository(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(bundle, repository)
    write_repository(bundle, repository, TritonOptions(model="others", backend="python"))
    assert config(repository / "others").name == "others"
    assert (repository / "others" / "7" / "model.py").is_file()
    write_repository(bundle, repository, TritonOptions(backend="python"))
    assert config(repository / "discs").backend == "python"
    assert (repository / "discs" / "7" / "model.py").is_file()


def test_what_cannot_be_written_is_refused_and_nothing_changes(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(bundle, repository)
    before = everything(repository)
    other = variant(bundle, tmp_path / "other", targets=Targets(accept=0.9))
    with pytest.raises(InputError, match="already has another version 7"):
        write_repository(other, repository)
    with pytest.raises(InputError, match="does not serve version 8"):
        write_repository(variant(bundle, tmp_path / "8", version="8"), repository, TritonOptions(policy="only:7"))
    (tmp_path / "8" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(FormatError, match="SHA-256"):
        write_repository(tmp_path / "8", repository)
    assert everything(repository) == before
    (repository / "theirs" / "1").mkdir(parents=True)
    with pytest.raises(InputError, match="not a model of a Triton repository"):
        write_repository(bundle, repository, TritonOptions(model="theirs"))
    (repository / "theirs" / CONFIG_FILE).write_text("")
    with pytest.raises(InputError, match="not written by oodguard"):
        write_repository(bundle, repository, TritonOptions(model="theirs"))


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    assert oodguard(["export", str(bundle), "--triton", str(repository), "--triton-threads", "1"]) == 0
    assert "version 7 for Triton's onnxruntime backend on cpu" in capsys.readouterr().out
    assert config(repository / "discs").parameters["intra_op_thread_count"].string_value == "1"
    for flags, word in (
        ([], "is a bundle; name the run that it was exported from"),
        (["--out", str(tmp_path / "x")], "is a bundle"),
        (["--out", str(tmp_path / "x"), "--triton-threads", "1"], "is a bundle"),
        (["--triton", str(repository), "--triton-tensorrt"], "device gpu"),
        (["--triton", str(repository), "--model-version", "2"], "leave out --model-version"),
    ):
        assert oodguard(["export", str(bundle), *flags]) == 2
        assert word in capsys.readouterr().err
