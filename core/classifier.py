"""The classifier that a guard was put around: what was found in its file, as runs and manifests keep it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from oodguard.core.frozen import Frozen

# In a run folder: the user's network as one graph from `images` (uint8 `[batch, H, W, 3]`) to the outputs below.
CLASSIFIER_FILE = "classifier.onnx"
FEATURE_NAME = "feature"
LOGITS_NAME = "logits"

Layout = Literal["NCHW", "NHWC"]
InputType = Literal["uint8", "float32", "float16"]
Activation = Literal["softmax", "sigmoid", "none"]
Batch = Literal["dynamic", "made dynamic", "one by one"]


class ClassifierRecord(Frozen):
    """A wrapped classifier: its file, and the parts that were found in it."""

    file: str = Field(description="The name of the file that was wrapped.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of that file; of a module, of what it was exported to.")
    producer: str = Field(description="What wrote it, with its version; empty where the file does not say.")
    opset: int = Field(ge=1, description="Its version of the ai.onnx operators.")
    input: str = Field(description="The tensor that takes the pixels.")
    layout: Layout
    dtype: InputType
    batch: Batch = Field(description="Whether it took batches, was made to, or runs image by image.")
    output: str = Field(description="The tensor that its callers read.")
    activation: Activation = Field(description="What turns its logits into its probabilities; none: it returns logits.")
    logits: str = Field(description="The tensor before that, `[batch, classes]`.")
    feature: str = Field(description="The tensor that enters its last layer, `[batch, width]`.")
    width: int = Field(ge=1, le=16384, description="Of the feature.")
    uncovered: tuple[str, ...] = Field((), description="Its classes of which no photo was given.")
    unseen: str | None = Field(
        None, description="The folder of photos that it was not trained on, which calibrate; null: see `seen`."
    )
    seen: bool = Field(
        False, description="Whether it was trained on photos like those that calibrate, for want of any others."
    )
    labels: Literal["photos", "model"] = Field(
        "photos", description="Whether the photos came with labels, or its own answers were taken for them."
    )
