"""What callers send: single and several images, in every form a server takes, some of them out of distribution."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oodguard.core.errors import InputError
from oodguard.load_tests import triton_http
from oodguard.load_tests.bodies import Body, json_body, multipart_body, raw_body
from oodguard.load_tests.harness import read_images

DISTINCT = 200
# Most callers send one image as it is; some send a few; programs that speak JSON are the exception.
KINDS: dict[str, tuple[int, Callable[[Sequence[bytes]], Body]]] = {
    "raw": (6, lambda images: raw_body(images[0])),
    "multipart": (3, multipart_body),
    "json": (1, json_body),
}
SAMPLES = Path(".oodguard-cache/example/samples")


class MixOptions(BaseModel):
    """What the images are and how many travel together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: Path = Field(
        SAMPLES / "in_distribution.png", description="In-distribution images: a folder or a file (default: a digit)."
    )
    ood_images: Path = Field(
        SAMPLES / "out_of_distribution.jpg", description="Images of anything else: a folder or a file."
    )
    ood_share: float = Field(0.2, ge=0, le=1, description="Share of the images that are out of distribution.")
    most_images: int = Field(4, ge=1, le=64, description="Most images in one request.")


def add_mix(parser: Any) -> None:
    """Declare the options; locust shows them on its page, too."""
    for name, info in MixOptions.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=str if isinstance(info.default, Path) else type(info.default),
            # Text: locust sends options to its workers and to its page, and neither knows a path.
            default=str(info.default) if isinstance(info.default, Path) else info.default,
            help=info.description,
        )


def mix_options(options: Namespace) -> MixOptions:
    """The options as given. Raises `InputError`."""
    try:
        return MixOptions.model_validate(vars(options))
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{option}: {first['msg']}; got {first['input']!r}") from None


@dataclass(frozen=True)
class Ask:
    """One request: where it goes, what it is, and how many images it holds."""

    path: str
    kind: str
    content: bytes
    headers: dict[str, str]
    images: int


class Mix:
    """Draws requests.

    ```python
    ask = Mix(MixOptions(images=Path("photos/test")), random.Random(0)).gateway()
    ```
    """

    def __init__(self, options: MixOptions, chance: random.Random) -> None:
        self._options = options
        self._chance = chance
        self._inside = read_images(options.images, count=DISTINCT) if options.ood_share < 1 else []
        self._outside = read_images(options.ood_images, count=DISTINCT) if options.ood_share > 0 else []

    def draw(self, count: int) -> list[bytes]:
        """Some images, each in or out of distribution by chance."""
        share = self._options.ood_share
        return [
            self._chance.choice(self._outside if self._chance.random() < share else self._inside) for _ in range(count)
        ]

    def gateway(self) -> Ask:
        """A request of `POST /predict`, of any of its three kinds."""
        kind = self._chance.choices(tuple(KINDS), [weight for weight, _ in KINDS.values()])[0]
        return self.ask(kind, self.draw(1 if kind == "raw" else self._chance.randint(1, self._options.most_images)))

    def ask(self, kind: str, images: Sequence[bytes]) -> Ask:
        """A request of one kind with these images."""
        body = KINDS[kind][1](images)
        return Ask("/predict", body.kind, body.content, {"content-type": body.content_type}, body.images)

    def triton(self, served: triton_http.Served) -> Ask:
        """The same for Triton: decoded images, as pixels."""
        pixels = triton_http.decode(self.draw(self._chance.randint(1, self._options.most_images)), served.manifest)
        head, tensor = triton_http.pixel_request(pixels, served.manifest)
        headers = {"content-type": "application/octet-stream", triton_http.HEAD_LENGTH: str(len(head))}
        return Ask(served.path, "pixels", head + tensor, headers, len(pixels))
