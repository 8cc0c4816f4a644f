"""Triton's own protocol over HTTP, without a client library: pixels in, probabilities and scores out, in binary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from oodguard.core.errors import EnvironmentProblem, FormatError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, Manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.triton import Configuration, hashes
from oodguard.core.verdict import Outputs
from oodguard.load_tests.request import Request

HEAD_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Served:
    """A model version in Triton: its name and number, and the manifest that Triton's configuration holds."""

    model: str
    number: int
    manifest: Manifest

    def request(self, images: Sequence[bytes]) -> Request:
        """One inference request: images are decoded and sent as one binary tensor after a head of JSON."""
        batch = np.stack([load_pixels(image, self.manifest.preprocessing) for image in images])
        tensor = {"name": INPUT_NAME, "shape": batch.shape, "datatype": "UINT8"}
        inputs = [{**tensor, "parameters": {"binary_data_size": batch.nbytes}}]
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in (PROBABILITIES_NAME, SCORES_NAME)]
        head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
        headers = {"content-type": "application/octet-stream", HEAD_LENGTH: str(len(head))}
        path = f"/v2/models/{self.model}/versions/{self.number}/infer"
        return Request(path, "pixels", head + batch.tobytes(), headers, len(images))


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
    return Served(model, number, found.described(number).manifest)


def read_outputs(content: bytes, headers: Mapping[str, str]) -> Outputs:
    """The tensors of an answer. Raises `ValueError` and `KeyError` where it is none."""
    length = int(headers.get(HEAD_LENGTH) or headers[HEAD_LENGTH.lower()])
    found, at = {}, length
    for tensor in json.loads(content[:length])["outputs"]:
        size = int(tensor["parameters"]["binary_data_size"])
        found[tensor["name"]] = np.frombuffer(content, np.float32, size // 4, at).reshape(tensor["shape"])
        at += size
    return Outputs(probabilities=found[PROBABILITIES_NAME], scores=found[SCORES_NAME])
