"""Shared fixtures: a small photo set with real structure, one guard trained on it, and its bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import pytest
from PIL import Image

from oodguard.core.files import file_sha256
from oodguard.core.manifest import GRAPH_FILE, MANIFEST_FILE, FileRef, load_manifest
from oodguard.export.bundle import export_bundle
from oodguard.export.graph import with_metadata
from oodguard.export.triton.options import TritonOptions
from oodguard.export.triton.repository import write_repository
from oodguard.load_tests.real_triton import Triton, triton_environment
from oodguard.training.compute import cpu_threads
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import load_photos
from oodguard.training.pipeline import train
from oodguard.training.run import load_run
from tests.nearby import Nearby
from tests.packages import build, clone

COLOURS = {"amber": (230, 150, 20), "jade": (30, 160, 90), "plum": (110, 40, 120)}


def draw(colour: tuple[int, int, int], seed: int, side: int = 72) -> Image.Image:
    """A blurred disc of a colour on a noisy ground: one class, many images."""
    rng = np.random.default_rng(seed)
    ground = rng.normal(200, 12, (side, side, 3))
    y, x = np.mgrid[:side, :side]
    cy, cx = rng.uniform(0.35, 0.65, 2) * side
    radius = rng.uniform(0.2, 0.38) * side
    inside = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2)[..., None]
    painted = np.where(inside, np.array(colour) + rng.normal(0, 14, (side, side, 3)), ground)
    return Image.fromarray(np.clip(painted, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in train/ (60 each) and test/ (15 each), as JPEG files."""
    root = tmp_path_factory.mktemp("photos")
    seed = 0
    for split, count in (("train", 60), ("test", 15)):
        for label, colour in COLOURS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                seed += 1
                draw(colour, seed).save(folder / f"{index:03d}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of nothing the guard was trained on: coloured noise and stripes."""
    folder = tmp_path_factory.mktemp("strangers") / "noise"
    folder.mkdir()
    rng = np.random.default_rng(7)
    for index in range(12):
        noise = rng.integers(0, 256, (72, 72, 3), dtype=np.uint8)
        noise[:: 2 + index % 3] = 255 * (index % 2)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder.parent


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache for the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def options(photos: Path, cache: Path) -> TrainOptions:
    """Options that train in seconds."""
    return TrainOptions(
        data=photos,
        cache=cache,
        image_size=72,
        views=2,
        fine_tune_epochs=4,
        epochs=20,
        hidden=32,
        calibration_fraction=0.33,
    )


@pytest.fixture(scope="session")
def run(options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run folder."""
    out = tmp_path_factory.mktemp("runs") / "discs"
    # Whichever test asks first: other threads add in another order, and give another guard.
    with cpu_threads(1):
        train(options, out)
    return out


@pytest.fixture(scope="session")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported bundle."""
    out = tmp_path_factory.mktemp("bundles") / "discs"
    export_bundle(run, out, version="7")
    return out


@pytest.fixture(scope="session")
def pictured(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with thumbnails of the training photos in its bank."""
    out = tmp_path_factory.mktemp("pictured") / "discs"
    export_bundle(run, out, version="7", thumbnails=True)
    return out


@pytest.fixture(scope="session")
def nearby(run: Path, photos: Path, options: TrainOptions) -> Nearby:
    """What explanations of the shared guard must name."""
    return Nearby(load_run(run), load_photos(photos, options.cache))


@pytest.fixture(scope="session")
def parse_page() -> Callable[[str], Element]:
    """Parses a page as browsers do, refusing what is not valid, runs anything, or refers to anything outside it."""

    def parse(text: str) -> Element:
        tree: Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
        ids = [element.get("id") for element in tree.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert "http:" not in text
        assert "https:" not in text
        for element in tree.iter():
            if not isinstance(element.tag, str):
                continue
            tag = element.tag.rsplit("}")[-1]
            assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form"}, tag
            for name, value in element.attrib.items():
                name = str(name).rsplit("}")[-1]
                assert not name.startswith("on"), name
                if name == "src":
                    assert value.startswith("data:image/")
                if name == "href":
                    assert value.startswith("#")
                    assert value[1:] in ids
                if name == "style" or tag == "style":
                    assert "url(" not in value.replace("url(#", "")
            if tag == "img":
                assert element.get("alt")
            if tag == "svg" and element.get("viewBox"):
                assert element.get("aria-label")
            if tag == "table":
                assert element.find("caption") is not None
        return tree

    return parse


@pytest.fixture(scope="session")
def newer(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as version 8: the same answers from a file with another hash."""
    folder = tmp_path_factory.mktemp("newer") / "discs"
    shutil.copytree(bundle, folder)
    graph = with_metadata((bundle / GRAPH_FILE).read_bytes(), {"oodguard.version": "8"})
    (folder / GRAPH_FILE).write_bytes(graph)
    manifest = load_manifest(bundle)
    changed = FileRef(path=GRAPH_FILE, bytes=len(graph), sha256=file_sha256(folder / GRAPH_FILE))
    files = tuple(changed if ref.path == GRAPH_FILE else ref for ref in manifest.files)
    manifest = manifest.model_copy(update={"version": "8", "files": files})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def triton_home() -> Path:
    """An environment with a real Triton in it, made on first use and shared by all workers."""
    return triton_environment(Path(__file__).parents[1] / ".oodguard-cache")


@pytest.fixture(scope="session")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Triton model repository with the bundle in it."""
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(bundle, folder, TritonOptions(backend="python", instances=2, threads=1))
    return folder


@pytest.fixture(scope="session")
def triton(triton_home: Path, repository: Path) -> Iterator[Triton]:
    """A real Triton that serves the bundle; not to be disturbed."""
    with Triton(triton_home, repository, models=["discs"]) as running:
        yield running


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from several threads and lose a lot beside another worker's."""
    with cpu_threads(1):
        yield


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone holds."""
    return clone(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build(checkout, tmp_path_factory.mktemp("wheel"), "wheel")
