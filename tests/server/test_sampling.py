from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import from_url
from PIL import Image
from pydantic import ValidationError

from oodguard.clients.samples import read_samples
from oodguard.core.errors import EnvironmentProblem
from oodguard.server import app
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.places import BLOCK, Folder, stored
from oodguard.server.sampling import WAITING
from oodguard.server.settings import ServeSettings

PNG = {"content-type": "image/png"}


def test_flagged_images_are_kept_with_their_verdicts(
    start: Any, golden: list[bytes], strangers: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flagged"
    client = start(sample_dir=folder, sample_rate=1.0)
    stranger = next(strangers.rglob("*.png")).read_bytes()
    answer = client.post("/predict", content=stranger, headers=PNG).json()
    inside = client.post("/predict", content=golden[0], headers=PNG).json()["predictions"][0]
    client.parts.sampler.close()
    found = read_samples(folder)
    flagged = [p for p in (answer["predictions"][0], inside) if p["is_ood"]]
    assert flagged
    assert not found.unreadable
    assert len(found.good) == len(flagged)
    kept = found.good[0]
    assert kept.image.read_bytes() == stranger
    assert (kept.sample.ood_score, kept.sample.accept) == (answer["predictions"][0]["ood_score"], answer["accept"])
    assert client.sample('oodguard_samples_total{result="kept"}') == len(flagged)


def pictures(count: int) -> list[bytes]:
    """Different strangers."""
    made = []
    for seed in range(count):
        stream = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "PNG")
        made.append(stream.getvalue())
    return made


def test_the_folder_never_grows_beyond_its_bound(start: Any, tmp_path: Path) -> None:
    """Sidecars count, and a small file as much as it takes on disk: so the number of files is bounded, too."""
    images = pictures(6)
    (tmp_path / "older").write_bytes(b"x")
    pair = stored(len(images[0])) + BLOCK  # a sidecar of this model takes one block
    client = start(sample_dir=tmp_path, sample_rate=1.0, sample_max_bytes=BLOCK + 2 * pair)
    for image in images:
        assert client.post("/predict", content=image, headers=PNG).json()["predictions"][0]["is_ood"]
    client.parts.sampler.close()
    assert client.sample('oodguard_samples_total{result="kept"}') == 2.0
    assert client.sample('oodguard_samples_total{result="dropped"}') == 4.0
    assert sum(stored(path.stat().st_size) for path in tmp_path.iterdir()) <= BLOCK + 2 * pair


def test_the_same_picture_is_kept_once(start: Any, tmp_path: Path) -> None:
    image, other = pictures(2)
    for _ in range(2):  # another server that starts later knows it, too
        client = start(sample_dir=tmp_path / "flagged", sample_rate=1.0)
        for sent in (image, image, other):
            client.post("/predict", content=sent, headers=PNG)
        client.parts.sampler.close()
    assert client.sample('oodguard_samples_total{result="repeated"}') == 3.0
    assert len(read_samples(tmp_path / "flagged").good) == 2


def test_only_the_owner_may_read(start: Any, tmp_path: Path) -> None:
    client = start(sample_dir=tmp_path / "flagged", sample_rate=1.0)
    client.post("/predict", content=pictures(1)[0], headers=PNG)
    client.parts.sampler.close()
    found = [tmp_path / "flagged", *(tmp_path / "flagged").iterdir()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in found] == [0o700, 0o600, 0o600]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)

    def full(self: Path, *_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(EnvironmentProblem, match="No space left"):
            folder.put("a.png", b"data")
    assert list(tmp_path.iterdir()) == []


def test_an_image_without_its_sidecar_does_not_stay(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(sample_dir=tmp_path, sample_rate=1.0)
    whole = Folder.put

    def failing(self: Folder, name: str, data: bytes) -> None:
        if name.endswith(".json"):
            raise EnvironmentProblem("flagged images cannot be kept")
        whole(self, name, data)

    monkeypatch.setattr(Folder, "put", failing)
    client.post("/predict", content=pictures(1)[0], headers=PNG)
    client.parts.sampler.close()
    assert list(tmp_path.iterdir()) == []
    assert client.sample('oodguard_samples_total{result="failed"}') == 1.0


def test_what_a_killed_server_left_is_removed_later(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.png.partial", tmp_path / ".b.png.partial"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    Folder(tmp_path)
    assert list(tmp_path.iterdir()) == [new]


def test_nothing_is_kept_by_default_and_a_bad_folder_is_refused(start: Any, fake: FakeEngine, tmp_path: Path) -> None:
    assert start(engine=fake).parts.sampler is None
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(EnvironmentProblem, match="flagged images cannot be kept"):
        start(engine=fake, sample_dir=file)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real S3 API in this process, and a bucket in it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    httpx.put(f"{url}/bucket").raise_for_status()
    yield from_url("s3://bucket/flagged")
    server.stop()


def test_flagged_images_are_kept_in_a_bucket(start: Any, strangers: Path, s3: Any, tmp_path: Path) -> None:
    stranger = next(strangers.rglob("*.png")).read_bytes()
    obstore.put(s3, "older", b"x" * len(stranger))
    limit = 2 * stored(len(stranger)) + BLOCK
    client = start(sample_store="s3://bucket/flagged", sample_rate=1.0, sample_max_bytes=limit)
    images = (stranger, stranger, pictures(1)[0])
    answers = [client.post("/predict", content=image, headers=PNG).json()["predictions"][0] for image in images]
    assert answers[0]["is_ood"]
    client.parts.sampler.close()
    assert client.sample('oodguard_samples_total{result="kept"}') == 1.0
    assert client.sample('oodguard_samples_total{result="repeated"}') == 1.0
    assert client.sample('oodguard_samples_total{result="dropped"}') == 1.0
    for objects in obstore.list(s3):
        for found in objects:
            (tmp_path / found["path"]).write_bytes(bytes(obstore.get(s3, found["path"]).bytes()))
    (kept,) = read_samples(tmp_path).good
    assert kept.image.read_bytes() == stranger
    assert kept.sample.ood_score == answers[0]["ood_score"]


def test_a_bucket_that_fails_costs_no_answer_and_is_counted(
    start: Any, strangers: Path, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = start(sample_store="s3://nowhere/flagged", sample_rate=1.0)
    stranger = next(strangers.rglob("*.png")).read_bytes()
    assert client.post("/predict", content=stranger, headers=PNG).status_code == 200
    client.parts.sampler.close()
    assert client.sample('oodguard_samples_total{result="failed"}') == 1.0
    assert client.sample('oodguard_samples_total{result="kept"}') == 0.0
    sentences = [record.getMessage() for record in caplog.records if record.name == "oodguard.server"]
    assert any(s.startswith("flagged images cannot be kept in s3://nowhere/flagged: ") for s in sentences)
    assert all("\n" not in s and len(s) < 300 for s in sentences)


class Stuck:
    """A place that answers when it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.names: list[str] = []

    def held(self, enough: int) -> int:
        return 0

    def has(self, name: str) -> bool:
        return name in self.names

    def remove(self, name: str) -> None:
        self.names.remove(name)

    def put(self, name: str, data: bytes) -> None:
        assert self.gate.wait(60)
        self.names.append(name)


def test_a_slow_place_holds_up_nobody_and_a_bounded_number_of_images(
    start: Any, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Stuck()
    monkeypatch.setattr(app, "place_of", lambda *_: place)
    client = start(engine=fake, sample_rate=1.0)
    for stranger in pictures(WAITING + 3):
        assert client.post("/predict", content=stranger, headers=PNG).json()["predictions"][0]["is_ood"]
    assert client.sample('oodguard_samples_total{result="dropped"}') == 3.0
    place.gate.set()
    client.parts.sampler.close()
    assert client.sample('oodguard_samples_total{result="kept"}') == WAITING
    assert len(place.names) == 2 * WAITING


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample_store": "bucket/flagged"}, "is not an address"),
        ({"sample_store": "s3://key:secret@bucket/x"}, "is not an address"),
        ({"sample_store": "s3://bucket", "sample_dir": Path("x")}, "two places"),
    ],
)
def test_settings_of_two_places_or_none_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ServeSettings(bundle=Path("x"), **settings)
