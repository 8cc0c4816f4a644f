"""What was found in a classifier's file."""

from __future__ import annotations

from dataclasses import dataclass

from oodguard.core.classifier import Activation, Layout


@dataclass(frozen=True, kw_only=True)
class ClassifierParts:
    """The parts of a classifier, by the names of its tensors."""

    file: str
    sha256: str
    data: tuple[tuple[str, str], ...]
    """Name and SHA-256 of each file of external data."""
    producer: str
    opset: int
    input: str
    layout: Layout
    dtype: str
    """Of the input: uint8, float32 or float16."""
    size: tuple[int | None, int | None]
    """Height and width of the input; None where the file leaves them free."""
    fixed_batch: int | None
    """The batch that the file insists on; None where it takes any."""
    constants: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """The values of further inputs that the file asks for."""
    output: str
    output_dtype: str
    output_scale: tuple[float, int] | None = None
    """Of an int8 output: a probability is (value - the second) x the first."""
    is_log: bool = False
    """Whether the output holds logarithms of probabilities."""
    activation: Activation
    logits: str
    logits_dtype: str
    feature: str
    feature_dtype: str
    width: int
    """Of the feature."""
    feature_shape: tuple[int, ...]
    """Of the feature's tensor for one image, without the batch."""
    classes: int
    class_names: tuple[str, ...] = ()
    """As the metadata give them; empty where they do not."""
    last: tuple[str, ...] = ()
    """The operators from the feature to the output."""
    probe: tuple[int, int]
    """Height and width that it was tried at."""
    notes: tuple[str, ...] = ()
    """What a user should hear beside the three lines."""

    def lines(self) -> tuple[str, str, str]:
        """What was found, for a person: the input, the feature with the last layers, the output."""
        height, width = ("free" if side is None else side for side in self.size)
        batch = "any batch" if self.fixed_batch is None else f"batches of {self.fixed_batch} only"
        size = "any size" if self.size == (None, None) else f"{height} x {width} pixels"
        made = {"softmax": "softmax of", "sigmoid": "sigmoid of", "none": "logits themselves, from"}[self.activation]
        if self.is_log:
            made = "logarithm of the softmax of"
        named = f", named in the file: {_some(self.class_names)}" if self.class_names else ""
        logits = "" if self.activation == "none" and self.logits == self.output else f", {made} {self.logits}"
        kind = ", logits" if self.activation == "none" else ""
        return (
            f"input    {self.input}: {self.layout} {self.dtype}, {size}, {batch}",
            f"feature  {self.feature}: {self.width} numbers, then {', '.join(self.last)}",
            f"output   {self.output}: {self.classes} classes{kind}{logits}{named}",
        )


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ..."
