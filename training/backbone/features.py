"""Frozen trunk activations of many images: computed once, cached by content, resumable.

The key of a cached activation is the image's SHA-256 and view number; the folder it lies in is named after the
preprocessing, the augmentation, the backbone and its weights. Chunks are written whole or not at all, so an
interrupted extraction goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from PIL import Image
from torch import nn

from oodguard.core.allowance import cores
from oodguard.core.errors import EnvironmentProblem, ImageError, InputError
from oodguard.core.images import OWN_LIMITS
from oodguard.core.preprocessing import Pixels, Preprocessing, open_image, to_pixels
from oodguard.training.backbone.augment import AUGMENTATION, augmented_pixels
from oodguard.training.backbone.classifier_trunk import ClassifierTrunk
from oodguard.training.backbone.network import Backbone, pixel_network
from oodguard.training.backbone.onnx_file import export_onnx
from oodguard.training.photos.labelled import Photo

# float16, or float32 of numbers that it does not have; of a wrapped classifier float32, since what it says is answered
# as it is.
Activations = npt.NDArray[np.floating]
Progress = Callable[[int, int], None]

CHUNK = 256
BATCH = 16
# Of an activation's length: twice what rounding to float16's 11 bits may take.
MAX_LOST = 1e-3
TRAINING_LIMITS = OWN_LIMITS


class Alteration(Protocol):
    """A change of the pixels that a network is shown, such as a corruption; seeded by the image's identity."""

    @property
    def name(self) -> str:
        """Unique for what it does: activations are cached under it."""

    def __call__(self, pixels: Pixels, identity: str) -> Pixels:
        """Changed pixels of the same shape."""


class PhotoArrival(Protocol):
    """What happens to a photo before it arrives: a change of the upright RGB image, before preprocessing."""

    @property
    def name(self) -> str:
        """Unique for what it does: activations are cached under it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """A changed RGB image of any size."""


@dataclass
class Extractor:
    """Trunk activations through a disk cache.

    ```python
    extractor = Extractor(backbone, cache=Path(".oodguard-cache"))
    activations = extractor.extract(photos, views=(0,))[0]
    ```
    """

    backbone: Backbone
    cache: Path
    on_unreadable: str = "skip"
    threads: int = 0
    alteration: Alteration | None = None
    arrival: PhotoArrival | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    computed: int = 0
    _run: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]] | None = None

    def readable(self, photos: Sequence[Photo], progress: Progress | None = None) -> tuple[Photo, ...]:
        """The photos that decode, after extracting their plain view; the others are named in `unreadable`."""
        self._fill([(photo, 0) for photo in photos], progress)
        good = tuple(photo for photo in photos if photo.sha256 not in self.unreadable)
        if len(good) < len(photos) and self.on_unreadable == "refuse":
            bad = [photo for photo in photos if photo.sha256 in self.unreadable]
            raise InputError(
                f"{len(bad)} of {len(photos)} images cannot be read; the first: {bad[0].path} "
                f"({self.unreadable[bad[0].sha256]})"
            )
        return good

    def extract(
        self, photos: Sequence[Photo], *, views: Sequence[int] = (0,), progress: Progress | None = None
    ) -> Activations:
        """Activations `[V, N, ...]` of every photo in every view; view 0 is the plain, served one."""
        wanted = [(photo, view) for view in views for photo in photos]
        self._fill(wanted, progress)
        chunks: dict[Path, Activations] = {}
        index = self._index()
        rows: list[Activations] = []
        for photo, view in wanted:
            path, row = index[_key(photo, view)]
            if path not in chunks:
                chunks[path] = np.load(path, allow_pickle=False)
            rows.append(chunks[path][row])
        table = np.stack(rows)
        return table.reshape(len(views), len(photos), *table.shape[1:])

    @property
    def _folder(self) -> Path:
        parts = [
            self.backbone.preprocessing.model_dump(),
            AUGMENTATION,
            self.backbone.name,
            self.backbone.weights_sha256,
            self.backbone.cut,
        ]
        if self.backbone.tuned_sha256 is not None:
            parts.append({"tuned": self.backbone.tuned_sha256})
        if self.alteration is not None:
            parts.append(self.alteration.name)
        if self.arrival is not None:
            parts.append({"arrival": self.arrival.name})
        described = json.dumps(parts)
        return self.cache / "features" / hashlib.sha256(described.encode()).hexdigest()[:24]

    def _index(self) -> dict[str, tuple[Path, int]]:
        index: dict[str, tuple[Path, int]] = {}
        for keys in sorted(self._folder.glob("*.json")):
            data = keys.with_suffix(".npy")
            if data.is_file():
                for row, key in enumerate(json.loads(keys.read_text())):
                    index[key] = (data, row)
        return index

    def _fill(self, wanted: Sequence[tuple[Photo, int]], progress: Progress | None) -> None:
        done = self._index().keys()
        missing = {_key(photo, view): (photo, view) for photo, view in wanted if _key(photo, view) not in done}
        jobs = [job for job in missing.values() if job[0].sha256 not in self.unreadable]
        if not jobs:
            return
        if self._run is None:
            self._run = trunk_runner(self.backbone.trunk, self.backbone.preprocessing, threads=self.threads)
        finished = 0
        workers = self.threads or cores()
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(jobs), CHUNK):
                chunk = jobs[start : start + CHUNK]
                keys: list[str] = []
                outputs: list[npt.NDArray[np.float32]] = []
                pixels: list[Pixels] = []
                for (photo, view), image in zip(chunk, pool.map(self._decode, chunk), strict=True):
                    finished += 1
                    if image is not None:
                        keys.append(_key(photo, view))
                        pixels.append(image)
                    if len(pixels) == BATCH:
                        outputs.append(self._infer(np.stack(pixels)))
                        pixels.clear()
                        if progress:
                            progress(finished, len(jobs))
                if pixels:
                    outputs.append(self._infer(np.stack(pixels)))
                if keys:
                    self._write(keys, self._kept(np.concatenate(outputs)))
                    self.computed += len(keys)
                if progress:
                    progress(finished, len(jobs))

    def _decode(self, job: tuple[Photo, int]) -> Pixels | None:
        photo, view = job
        # A reduced decoding is smaller than the photo that is changed before it arrives.
        shrink = self.backbone.preprocessing if self.arrival is None else None
        try:
            image = open_image(photo.path.read_bytes(), TRAINING_LIMITS, shrink_for=shrink)
        except ImageError as error:
            self.unreadable[photo.sha256] = str(error)
            return None
        if self.arrival is not None:
            image = self.arrival(image)
        if view == 0:
            pixels = to_pixels(image, self.backbone.preprocessing)
        else:
            pixels = augmented_pixels(image, self.backbone.preprocessing, identity=photo.sha256, view=view)
        return pixels if self.alteration is None else self.alteration(pixels, photo.sha256)

    def _infer(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        assert self._run is not None
        return self._run(pixels)

    def _kept(self, rows: npt.NDArray[np.float32]) -> Activations:
        """As float16, unless they are too large or too small for it: then as they are."""
        if self.backbone.rows is not None:
            return rows
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        flat = rows.reshape(len(rows), -1)
        lost = np.linalg.norm(halves.reshape(flat.shape).astype(np.float32) - flat, axis=1)
        return halves if (lost <= MAX_LOST * np.linalg.norm(flat, axis=1)).all() else rows

    def _write(self, keys: list[str], rows: Activations) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
            # The keys come last: a chunk without its keys does not exist.
            for suffix, write in (
                (".npy", lambda f: np.save(f, rows, allow_pickle=False)),
                (".json", lambda f: f.write(json.dumps(keys).encode())),
            ):
                with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as stream:
                    write(stream)
                Path(stream.name).replace(self._folder / f"{name}{suffix}")
        except OSError as error:
            raise EnvironmentProblem(f"features cannot be cached in {self.cache} ({error.strerror})") from None


def _key(photo: Photo, view: int) -> str:
    return f"{photo.sha256}/{view}"


def trunk_runner(
    trunk: nn.Module, preprocessing: Preprocessing, *, threads: int = 0
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """A function from uint8 images `[B, H, W, 3]` to float32 activations.

    On a GPU it is PyTorch; on a CPU it is ONNX Runtime, which runs a frozen network about twice as fast.
    """
    if isinstance(trunk, ClassifierTrunk):
        return trunk.run
    network = pixel_network(trunk, preprocessing).eval()
    if torch.cuda.is_available():
        network = network.cuda()

        def on_gpu(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                return np.asarray(network(torch.from_numpy(images).cuda()).float().cpu(), dtype=np.float32)

        return on_gpu
    graph = io.BytesIO()
    export_onnx(network, preprocessing, graph)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or cores()
    session = ort.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def on_cpu(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(None, {name: images})[0], dtype=np.float32)

    return on_cpu


def batches(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `range(count)`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
