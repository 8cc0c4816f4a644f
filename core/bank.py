"""The bank's photos: which training photo each row of the nearest-neighbour search is, in a run and in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from oodguard.core.errors import FormatError
from oodguard.core.frozen import Frozen, first_fault

BANK_FILE = "bank.json"
# How many training photos an explanation names.
NEAREST = 3

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Bank(Frozen):
    """Class index and SHA-256 of each training photo in the bank, row by row; paths are not kept.

    ```python
    bank = Bank.read(bundle / BANK_FILE)
    ```
    """

    class_indices: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    sha256: tuple[Sha256, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.class_indices) != len(self.sha256):
            raise ValueError("class_indices and sha256 must have the same length")
        return self

    def __len__(self) -> int:
        return len(self.sha256)

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Bank:
        """The bank in a file's bytes. Raises `FormatError`."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise FormatError(f"{where} is damaged: {first_fault(error, whole='the file')}") from None

    @classmethod
    def read(cls, path: Path) -> Bank:
        """Read the bank of a run or of a bundle. Raises `FormatError`."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise FormatError(f"{path.parent} is incomplete: it has no {path.name}") from None
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error.strerror or error})") from None
        return cls.parse(data, where=str(path))
