"""LitServe on the same graph."""

import argparse
import os
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Body
from graph import BUNDLE_VARIABLE, Answer, Graph


class Guard(litserve.LitAPI):
    """Takes raw bodies, because the type of `request` is FastAPI's to read; batches are lists of images."""

    threads = 1
    batched = False

    def setup(self, device: str) -> None:
        """Load the graph in the worker."""
        self._graph = Graph.from_environment(threads=self.threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """The image as it came; it is decoded in `predict`, once a batch is there."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Images stay a list until they are decoded."""
        return inputs

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """One answer an image."""
        return output

    def predict(self, images: list[bytes] | bytes) -> list[Answer] | Answer:
        """One run for a batch, or for one image."""
        if isinstance(images, bytes):
            return self._graph.answer([images])[0]
        return self._graph.answer(images)

    def encode_response(self, output: Answer) -> Answer:
        """The answer is JSON as it is."""
        return output


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--fast-queue", action="store_true")
    options = parser.parse_args()
    os.environ[BUNDLE_VARIABLE] = str(options.bundle)
    Guard.threads = options.threads
    api = Guard(max_batch_size=options.batch, batch_timeout=options.wait)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=options.workers, fast_queue=options.fast_queue
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", access_log=False, generate_client_file=False)


if __name__ == "__main__":
    main()
