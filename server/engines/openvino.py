"""OpenVINO on the CPU: the same ONNX file, often faster than ONNX Runtime there (`oodguard tune` measures it)."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino

from oodguard.core.errors import FormatError
from oodguard.core.graph_file import read_graph
from oodguard.core.manifest import INPUT_NAME, Manifest
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.errors import EngineError, EngineUnavailable


class OpenVinoEngine:
    """One compiled model with `sessions` infer requests of `threads` threads each."""

    name = "openvino"
    device = "cpu"

    def __init__(self, bundle: Path, manifest: Manifest, *, sessions: int = 1, threads: int = 1) -> None:
        core = openvino.Core()
        options = {
            "NUM_STREAMS": sessions,
            "INFERENCE_NUM_THREADS": sessions * threads,
            "PERFORMANCE_HINT": "THROUGHPUT",
            # Lower precision than the graph's own would move the scores away from their thresholds.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        graph = read_graph(bundle, manifest)
        try:
            model = core.read_model(model=graph, weights=b"")
            compiled = core.compile_model(model, "CPU", options)
        except Exception as error:  # OpenVINO raises RuntimeError for every kind of bad graph
            reason = str(error).strip().splitlines()[-1]
            raise FormatError(f"{bundle / manifest.graph} cannot be loaded by OpenVINO ({reason})") from None
        found = {name for port in (*compiled.inputs, *compiled.outputs) for name in port.get_names()}
        missing = {INPUT_NAME, *manifest.output_names} - found
        if missing:
            raise FormatError(f"the graph of {bundle} does not fit its manifest: it has no {sorted(missing)[0]}")
        self._kinds = {spec.name: np.dtype(spec.dtype) for spec in manifest.outputs}
        self.slots = sessions
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(sessions):
            self._requests.put(compiled.create_infer_request())
        self._workers = ThreadPoolExecutor(sessions, thread_name_prefix="inference")
        self._closed = False

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch."""
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._run, images)

    def _run(self, images: Batch) -> Outputs:
        request = self._requests.get()
        try:
            request.infer({INPUT_NAME: images}, share_inputs=True)
            return Outputs(
                **{name: np.array(request.get_tensor(name).data, dtype=kind) for name, kind in self._kinds.items()}
            )
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise EngineError(f"OpenVINO failed ({str(error).strip().splitlines()[-1]})") from None
        finally:
            self._requests.put(request)

    async def close(self) -> None:
        """Release the threads and the model."""
        self._closed = True
        self._workers.shutdown(wait=False, cancel_futures=True)
        while not self._requests.empty():
            self._requests.get()
