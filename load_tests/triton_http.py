"""Triton's own protocol over HTTP, without a client library: pixels in, probabilities and scores out, in binary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from oodguard.core.errors import EnvironmentProblem, FormatError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, Manifest, Outputs
from oodguard.core.preprocessing import Pixels, load_pixels
from oodguard.core.triton import Configuration, hashes

HEAD_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Served:
    """A model version in Triton: where it is asked, and the manifest that Triton's configuration holds."""

    path: str
    manifest: Manifest


def read_served(url: str, model: str) -> Served:
    """The newest version of `model` at `url`. Raises `EnvironmentProblem` and `FormatError`."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v2/models/{model}/config", timeout=10)
        answer.raise_for_status()
        config = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise EnvironmentProblem(f"{url} does not describe a model {model} ({error})") from None
    parameters = {key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()}
    if not (versions := hashes(parameters)):
        raise FormatError(f"{model} at {url} was not written by oodguard export --triton")
    found = Configuration(model, "", max(int(config.get("max_batch_size", 0)), 1), parameters, {})
    number = max(versions)
    return Served(f"/v2/models/{model}/versions/{number}/infer", found.described(number).manifest)


def decode(images: Sequence[bytes], manifest: Manifest) -> list[Pixels]:
    """Images as the graph takes them."""
    return [load_pixels(image, manifest.preprocessing) for image in images]


def pixel_request(pixels: Sequence[Pixels], manifest: Manifest) -> tuple[bytes, bytes]:
    """The head of an inference request, as JSON, and the tensor that follows it."""
    batch = np.ascontiguousarray(np.stack(pixels))
    tensor = {"name": INPUT_NAME, "shape": batch.shape, "datatype": "UINT8"}
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": batch.nbytes}}]}
    outputs = [{"name": spec.name, "parameters": {"binary_data": True}} for spec in manifest.outputs]
    return json.dumps({**head, "outputs": outputs}).encode(), batch.tobytes()


def read_outputs(content: bytes, headers: Mapping[str, str]) -> Outputs:
    """The tensors of an answer. Raises `ValueError` and `KeyError` where it is none."""
    length = int(headers.get(HEAD_LENGTH) or headers[HEAD_LENGTH.lower()])
    found, at = {}, length
    for tensor in json.loads(content[:length])["outputs"]:
        size = int(tensor["parameters"]["binary_data_size"])
        found[tensor["name"]] = np.frombuffer(content, np.float32, size // 4, at).reshape(tensor["shape"])
        at += size
    return Outputs(probabilities=found[PROBABILITIES_NAME], scores=found[SCORES_NAME])
