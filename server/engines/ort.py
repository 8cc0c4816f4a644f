"""The embedded engine: ONNX Runtime in this process, on CUDA where it is present and on the CPU otherwise."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime as ort

from oodguard.core.errors import EnvironmentProblem, FormatError
from oodguard.core.graph_file import read_graph
from oodguard.core.manifest import INPUT_NAME, Manifest
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.engines.registry import Device
from oodguard.server.errors import EngineError, EngineUnavailable

SILENT = 3
# On a GPU two inferences at once are enough to hide the copies.
GPU_SLOTS = 2


class OrtEngine:
    """One ONNX Runtime session, its weights shared by `sessions` threads that each run one inference at a time."""

    name = "onnxruntime"

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        device: Device = "auto",
        sessions: int = 1,
        threads: int = 1,
    ) -> None:
        available = ort.get_available_providers()
        providers = ["CPUExecutionProvider"]
        if device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in available):
            if "CUDAExecutionProvider" not in available:
                raise EnvironmentProblem(
                    "this onnxruntime has no CUDA; pip uninstall onnxruntime and pip install 'oodguard[serve-gpu]', or "
                    "use --device cpu"
                )
            providers.insert(0, "CUDAExecutionProvider")
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = threads
        # Waiting threads would otherwise burn the cores that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = read_graph(bundle, manifest)
        try:
            self._session = ort.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # ONNX Runtime raises types of its own for every kind of bad graph
            reason = str(error).splitlines()[0]
            raise FormatError(f"{bundle / manifest.graph} cannot be loaded ({reason})") from None
        # The GPU wheel lists CUDA as available and falls back silently: only the session tells what is used.
        self.device = "cuda" if self._session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
        if device == "cuda" and self.device != "cuda":
            raise EnvironmentProblem("CUDA could not be initialised; use --device cpu")
        _require_tensors(self._session, manifest, bundle)
        self._outputs = manifest.output_names
        self.slots = min(sessions, GPU_SLOTS) if self.device == "cuda" else sessions
        self._workers = ThreadPoolExecutor(self.slots, thread_name_prefix="inference")
        self._closed = False

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch."""
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._run, images)

    def _run(self, images: Batch) -> Outputs:
        try:
            found = self._session.run(self._outputs, {INPUT_NAME: images})
        except Exception as error:  # ONNX Runtime raises types of its own
            raise EngineError(f"ONNX Runtime failed ({str(error).splitlines()[0]})") from None
        return Outputs(**dict(zip(self._outputs, found, strict=True)))

    async def close(self) -> None:
        """Release the threads and the session's memory."""
        self._closed = True
        self._workers.shutdown(wait=False, cancel_futures=True)
        del self._session


def _require_tensors(session: ort.InferenceSession, manifest: Manifest, bundle: Path) -> None:
    kinds = {"tensor(uint8)": "uint8", "tensor(int32)": "int32", "tensor(float)": "float32"}
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
