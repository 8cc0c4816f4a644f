"""The model for Triton's python backend: the bundle's ONNX file through ONNX Runtime.

Export copies this file, as `model.py`, into every version's folder. It runs inside Triton, on Triton's own Python,
where oodguard is not installed: it needs onnxruntime (or onnxruntime-gpu) and the NumPy that this Triton was built for
(below version 2 for Triton 2.51: with NumPy 2 its outputs arrive empty).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

INPUT = "images"
GRAPH = "model.onnx"
GPU = "GPU"


class TritonPythonModel:
    """One instance: a session of its own, because the python backend runs each instance in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph; refuses one that is not the configuration's."""
        version = args["model_version"]
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self._outputs = [output["name"] for output in config["output"]]
        graph = Path(args["model_repository"]) / version / GRAPH
        data = graph.read_bytes()
        wanted = parameters.get(f"oodguard.{version}.graph_sha256", {}).get("string_value")
        found = hashlib.sha256(data).hexdigest()
        if found != wanted:
            raise pb_utils.TritonModelException(f"{graph} is not the graph of the configuration: SHA-256 {found}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"]["string_value"])
        # Waiting threads would otherwise burn cores that other instances need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == GPU:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": args["model_instance_device_id"]}))
        self._session = ort.InferenceSession(data, options, providers=providers)
        if len(providers) > 1 and self._session.get_providers()[0] == providers[-1]:
            raise pb_utils.TritonModelException("ONNX Runtime has no CUDA here; install onnxruntime-gpu")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that Triton gathered with one inference."""
        parts = [pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        try:
            found = self._session.run(self._outputs, {INPUT: images})
        except Exception as error:  # ONNX Runtime raises types of its own
            failure = pb_utils.TritonError(f"ONNX Runtime failed ({str(error).splitlines()[0]})")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        answers, start = [], 0
        for request, part in zip(requests, parts, strict=True):
            stop = start + len(part)
            wanted = request.requested_output_names()
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(values[start:stop]))
                for name, values in zip(self._outputs, found, strict=True)
                if name in wanted
            ]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start = stop
        return answers

    def finalize(self) -> None:
        """Release the session."""
        del self._session
