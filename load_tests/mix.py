"""What clients send: one image or several, in every kind of body that a server takes, some out of distribution."""

from __future__ import annotations

import random
from argparse import Namespace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oodguard.core.errors import InputError
from oodguard.load_tests.harness import read_images
from oodguard.load_tests.request import KINDS, Request
from oodguard.load_tests.triton_http import Served

DISTINCT = 200
# Most clients send one image as it is; some send a few; programs that speak JSON are the exception.
WEIGHTS = {"raw": 6, "multipart": 3, "json": 1}
SAMPLES = Path(".oodguard-cache/example/samples")


class MixOptions(BaseModel):
    """What the images are and how many travel together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: Path = Field(SAMPLES / "in_distribution.png", description="In-distribution images: a folder or a file.")
    ood_images: Path = Field(
        SAMPLES / "out_of_distribution.jpg", description="Out-of-distribution images: a folder or a file."
    )
    ood_share: float = Field(0.2, ge=0, le=1, description="Share of the images that are out of distribution.")
    max_images: int = Field(4, ge=1, le=64, description="Maximum of images in one request.")


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


class Mix:
    """Draws requests.

    ```python
    request = Mix(MixOptions(images=Path("photos/test")), random.Random(0)).gateway()
    ```
    """

    def __init__(self, options: MixOptions, chance: random.Random) -> None:
        self._options = options
        self._chance = chance
        self._id = read_images(options.images, count=DISTINCT) if options.ood_share < 1 else []
        self._ood = read_images(options.ood_images, count=DISTINCT) if options.ood_share > 0 else []

    def draw(self, count: int) -> list[bytes]:
        """Some images, each in or out of distribution by chance."""
        share = self._options.ood_share
        return [self._chance.choice(self._ood if self._chance.random() < share else self._id) for _ in range(count)]

    def _draw_several(self) -> list[bytes]:
        return self.draw(self._chance.randint(1, self._options.max_images))

    def gateway(self) -> Request:
        """A request of `POST /predict`, of any of its three kinds."""
        kind = self._chance.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
        return KINDS[kind](self.draw(1) if kind == "raw" else self._draw_several())

    def triton(self, served: Served) -> Request:
        """The same for Triton: decoded images, as pixels."""
        return served.request(self._draw_several())
