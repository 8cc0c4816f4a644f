"""The embedded engine: ONNX Runtime in this process, on CUDA where it is present and on the CPU otherwise."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from oodguard.export.contract import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, Manifest, Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.errors import EngineError, EngineUnavailable
from oodguard.training.errors import EnvironmentProblem, FormatError

SILENT = 3


class OrtEngine:
    """One ONNX Runtime session; inferences run one after the other in a thread of their own."""

    name = "onnxruntime"

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int = 0,
    ) -> None:
        available = ort.get_available_providers()
        providers = ["CPUExecutionProvider"]
        if device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in available):
            if "CUDAExecutionProvider" not in available:
                raise EnvironmentProblem(
                    "this onnxruntime has no CUDA; install oodguard[serve-gpu] or use --device cpu"
                )
            providers.insert(0, "CUDAExecutionProvider")
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(bundle / manifest.graph), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises types of its own for every kind of bad graph
            reason = str(error).splitlines()[0]
            raise FormatError(f"{bundle / manifest.graph} cannot be loaded ({reason})") from None
        # The GPU wheel lists CUDA as available and falls back silently: only the session tells what is used.
        self.device = "cuda" if self._session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        if device == "cuda" and self.device != "cuda":
            raise EnvironmentProblem("CUDA could not be initialised; use --device cpu")
        _require_tensors(self._session, manifest, bundle)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._closed = False

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch."""
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._run, images)

    def _run(self, images: Batch) -> Outputs:
        try:
            found = self._session.run([PROBABILITIES_NAME, SCORES_NAME], {INPUT_NAME: images})
        except Exception as error:  # ONNX Runtime raises types of its own
            raise EngineError(f"ONNX Runtime failed ({str(error).splitlines()[0]})") from None
        return Outputs(probabilities=np.asarray(found[0]), scores=np.asarray(found[1]))

    async def close(self) -> None:
        """Release the session's thread."""
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)


def _require_tensors(session: ort.InferenceSession, manifest: Manifest, bundle: Path) -> None:
    kinds = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    found = {t.name: (kinds.get(t.type), t.shape) for t in (*session.get_inputs(), *session.get_outputs())}
    for spec in (manifest.input, *manifest.outputs):
        dtype, shape = found.get(spec.name, (None, []))
        fits = len(shape) == len(spec.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(spec.shape, shape, strict=True)
        )
        if dtype != spec.dtype or not fits:
            raise FormatError(
                f"the graph of {bundle} does not fit its manifest: {spec.name} should be {spec.dtype} "
                f"{list(spec.shape)} and is {dtype} {list(shape)}"
            )
