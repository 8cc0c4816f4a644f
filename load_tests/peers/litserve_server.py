"""LitServe: raw bodies, batches of up to 4 within 2 ms, one worker process per core.

Tried and not better on two cores: no batching, its `fast_queue`, one worker whose runs use two threads, batches of 8.
"""

# No postponed annotations: LitServe reads the type of `request` off the signature, and a string would say nothing.
import os
from typing import Annotated

import litserve
from fastapi import Body
from graph import Graph, PeerAnswer, Settings, parse_settings

TUNED = Settings(workers=len(os.sched_getaffinity(0)), threads=1, parallel=0, batch=4, wait=0.002)


class Guard(litserve.LitAPI):
    """Images are decoded in the worker, once a batch is there."""

    def setup(self, device: str) -> None:
        """Load the graph."""
        self._graph = Graph.from_environment(threads=Settings.from_environment().threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """The image as it came."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """A list stays a list."""
        return inputs

    def unbatch(self, output: list[PeerAnswer]) -> list[PeerAnswer]:
        """One answer per image."""
        return output

    def predict(self, images: list[bytes] | bytes) -> list[PeerAnswer] | PeerAnswer:
        """One run for a batch, or for one image."""
        if isinstance(images, bytes):
            return self._graph.answer([images])[0]
        return self._graph.answer(images)

    def encode_response(self, output: PeerAnswer) -> PeerAnswer:
        """The answer is JSON as it is."""
        return output


def main() -> None:
    """Serve."""
    port, settings = parse_settings(__doc__, default=TUNED)
    api = Guard(max_batch_size=settings.batch, batch_timeout=settings.wait)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=settings.workers)
    server.run(host="127.0.0.1", port=port, log_level="warning", access_log=False, generate_client_file=False)


if __name__ == "__main__":
    main()
