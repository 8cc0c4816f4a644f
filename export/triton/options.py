"""Every option of a Triton model repository, once; `oodguard export` takes them as --triton-NAME."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
POLICY = re.compile(r"^(latest:[1-9][0-9]{0,3}|all|only:[1-9][0-9]{0,17}(,[1-9][0-9]{0,17})*)$")


class TritonOptions(BaseModel):
    """How Triton runs the model.

    ```python
    options = TritonOptions(backend="python", instances=2, threads=1)
    ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["onnxruntime", "python"] = Field(
        "onnxruntime", description="What runs the graph in Triton; python is for servers without the onnxruntime one."
    )
    model: str | None = Field(None, description="Name of the model in Triton; default: the bundle's.")
    device: Literal["cpu", "gpu"] = Field("cpu", description="Where its instances run.")
    gpus: tuple[int, ...] = Field((), description="GPUs to run on; default: every one Triton sees.")
    instances: int = Field(1, ge=1, le=256, description="Inferences run at once, on each GPU or on the CPU.")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of one inference; 0: one for each core.")
    max_batch: int = Field(8, ge=1, le=1024, description="Maximum number of images in one inference.")
    max_delay: float = Field(0.0, ge=0, le=1, description="Seconds a batch waits to fill while an instance is idle.")
    max_queue: int = Field(64, ge=1, le=1_000_000, description="Requests that may wait; more are refused at once.")
    queue_timeout: float = Field(
        5.0, gt=0, le=3600, description="Seconds a request may wait, unless it says so itself; then it is refused."
    )
    tensorrt: bool = Field(False, description="Run what TensorRT can run with TensorRT, at the graph's own precision.")
    tensorrt_cache: str | None = Field(
        None, description="Folder, as Triton sees it, where TensorRT's engines are kept between starts."
    )
    cuda_graphs: bool = Field(False, description="TensorRT: replay each batch size as one CUDA graph.")
    policy: str = Field(
        "latest:2", description="Versions Triton serves: latest:N, all, or only:1,3. The one before stays by default."
    )

    @field_validator("model")
    @classmethod
    def _is_name(cls, model: str | None) -> str | None:
        if model is not None and not NAME.match(model):
            raise ValueError("a model's name is 1 to 64 letters, digits, dots, dashes and underscores")
        return model

    @field_validator("policy")
    @classmethod
    def _is_policy(cls, policy: str) -> str:
        if not POLICY.match(policy):
            raise ValueError("a policy is latest:N, all, or only: and version numbers with commas between them")
        return policy

    @model_validator(mode="after")
    def _agree(self) -> TritonOptions:
        contradictions = {
            "gpus are for device gpu": bool(self.gpus) and self.device != "gpu",
            "tensorrt needs device gpu": self.tensorrt and self.device != "gpu",
            "tensorrt needs backend onnxruntime": self.tensorrt and self.backend != "onnxruntime",
            "cuda_graphs need tensorrt: ONNX Runtime alone cannot capture batches of changing size": self.cuda_graphs
            and not self.tensorrt,
            "tensorrt_cache needs tensorrt": self.tensorrt_cache is not None and not self.tensorrt,
        }
        for sentence, wrong in contradictions.items():
            if wrong:
                raise ValueError(sentence)
        return self

    @property
    def only(self) -> tuple[int, ...]:
        """The version numbers of an `only:` policy."""
        return tuple(map(int, self.policy[5:].split(","))) if self.policy.startswith("only:") else ()

    @property
    def latest(self) -> int | None:
        """N of a `latest:N` policy."""
        return int(self.policy[7:]) if self.policy.startswith("latest:") else None

    def served(self, numbers: list[int]) -> list[int]:
        """Which of the versions `numbers` this policy serves, in order."""
        if self.only:
            return sorted(set(numbers) & set(self.only))
        return sorted(numbers)[-self.latest :] if self.latest else sorted(numbers)
