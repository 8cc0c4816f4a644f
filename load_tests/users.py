"""The people of a load test, who send a request, read the answer, think, and send another; and when they come."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from locust import FastHttpUser, LoadTestShape, task

from oodguard.load_tests.answers import Answer, gateway_answer, triton_answer
from oodguard.load_tests.mix import Ask, Mix, MixOptions, mix_options
from oodguard.load_tests.shapes import people_at
from oodguard.load_tests.tally import Tallies
from oodguard.load_tests.triton_http import Served, read_served

TALLIES = Tallies()


@dataclass(frozen=True)
class Target:
    """What is asked, and with what; one for all callers of a process, who may be thousands."""

    mix: Mix
    served: Served | None
    headers: dict[str, str]

    def draw(self) -> Ask:
        """The next request."""
        return self.mix.triton(self.served) if self.served else self.mix.gateway()

    def read(self, status: int, content: bytes, headers: Mapping[str, str]) -> Answer:
        """What an answer says."""
        if self.served:
            return triton_answer(status, content, headers, self.served.manifest)
        return gateway_answer(status, content)


@cache
def _target(host: str, triton_model: str, key: str, options: MixOptions) -> Target:
    served = read_served(host, triton_model) if triton_model else None
    return Target(Mix(options, random.Random()), served, {"x-api-key": key} if key else {})


def target(host: str, options: Namespace) -> Target:
    """Where the options point. Raises an `OodguardError` where they make no sense."""
    return _target(host, options.triton_model or "", options.key or "", mix_options(options))


class Caller(FastHttpUser):
    """Posts images as applications do, with a little time to think."""

    network_timeout = 60.0
    connection_timeout = 10.0

    def wait_time(self) -> float:
        """Seconds to think: half to one and a half times `--think`."""
        return float(self.environment.parsed_options.think * random.uniform(0.5, 1.5))

    def on_start(self) -> None:
        """Read what is sent, and where to."""
        self._target = target(str(self.host), self.environment.parsed_options)

    @task
    def ask(self) -> None:
        """One request."""
        ask = self._target.draw()
        with self.client.post(
            ask.path,
            data=ask.content,  # type: ignore[arg-type] # bytes are sent as they are
            headers={**ask.headers, **self._target.headers},
            name=f"{ask.path} {ask.kind}",
            catch_response=True,
        ) as response:
            answer = self._target.read(response.status_code, response.content or b"", response.headers or {})
            if answer.outcome == "200":
                response.success()
            else:
                response.failure(answer.outcome)
            TALLIES.of(ask.kind).add(answer, response.request_meta["response_time"])


class Chosen(LoadTestShape):
    """The shape that `--shape` names, over `--seconds`."""

    def tick(self) -> tuple[int, float] | None:
        """Users now, and how many may start a second; None at the end."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        moment = self.get_run_time() / options.seconds  # type: ignore[no-untyped-call]
        if moment >= 1:
            # Everyone goes home before locust quits: requests under way are answered, and workers report them.
            return (0, float(options.people)) if self.runner.user_count else None
        return people_at(options.shape, moment, people=options.people), float(options.people)
