"""Locust's users, who send a request, read the answer, wait, and send another; and how many there are when."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from locust import FastHttpUser, LoadTestShape, task

from oodguard.load_tests.mix import Mix, MixOptions, mix_options
from oodguard.load_tests.request import Request
from oodguard.load_tests.shapes import users_at
from oodguard.load_tests.tally import Tallies, Tally
from oodguard.load_tests.triton_http import Served, read_served

TALLIES = Tallies()
# Told every second how many users call.
WATCHERS: list[Callable[[int], None]] = []


@dataclass(frozen=True)
class Target:
    """What is asked, and with what; one for all users of a process, who may be thousands."""

    mix: Mix
    served: Served | None
    headers: dict[str, str]

    def draw(self) -> Request:
        """The next request."""
        return self.mix.triton(self.served) if self.served else self.mix.gateway()

    def read(self, status: int, content: bytes, headers: Mapping[str, str]) -> Tally:
        """What an answer says."""
        if self.served:
            return Tally.of_triton(status, content, headers, self.served.manifest)
        return Tally.of_answer(status, content)


@cache
def _target(host: str, triton_model: str, key: str, options: MixOptions) -> Target:
    served = read_served(host, triton_model) if triton_model else None
    return Target(Mix(options, random.Random()), served, {"x-api-key": key} if key else {})


def target(host: str, options: Namespace) -> Target:
    """Where the options point. Raises an `OodguardError` where they make no sense."""
    return _target(host, options.triton_model or "", options.key or "", mix_options(options))


class ImageUser(FastHttpUser):
    """Posts images as applications do, with a little time between requests."""

    network_timeout = 60.0
    connection_timeout = 10.0

    def wait_time(self) -> float:
        """Seconds until the next request: half to one and a half times `--think`."""
        return float(self.environment.parsed_options.think * random.uniform(0.5, 1.5))

    def on_start(self) -> None:
        """Read what is sent, and where to."""
        self._target = target(str(self.host), self.environment.parsed_options)

    @task
    def post_images(self) -> None:
        """One request."""
        request = self._target.draw()
        with self.client.post(
            request.path,
            data=request.content,  # type: ignore[arg-type] # bytes are sent as they are
            headers={**request.headers, **self._target.headers},
            name=f"{request.path} {request.kind}",
            catch_response=True,
        ) as response:
            tally = self._target.read(response.status_code, response.content or b"", response.headers or {})
            if tally.answered:
                response.success()
            else:
                response.failure(" ".join(tally.outcomes))
            TALLIES.of(request.kind).add(tally.timed(response.request_meta["response_time"]))


class ChosenShape(LoadTestShape):
    """The shape that `--shape` names, over `--seconds`."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there are now, and how many may start in a second; None at the end."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        moment = self.get_run_time() / options.seconds  # type: ignore[no-untyped-call]
        for watch in WATCHERS:
            watch(0 if moment >= 1 else self.runner.user_count)
        if moment >= 1:
            # All users end before locust does: requests under way are answered, and workers report them.
            return (0, float(options.people)) if self.runner.user_count else None
        return users_at(options.shape, moment, users=options.people), float(options.people)
