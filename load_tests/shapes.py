"""How many users call at each moment of a load test."""

from __future__ import annotations

from typing import Literal, get_args

Shape = Literal["steady", "step", "soak", "spike"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
STEPS = 5
RAMP = 0.1
CALM = 0.2
SPIKE = (0.4, 0.6)


def users_at(shape: Shape, moment: float, *, users: int) -> int:
    """How many users call at `moment`, a share 0 to 1 of the test's length; at most `users`.

    steady: all from the start. step: a fifth more in each fifth. soak: a ramp over the first tenth, then all, then a
    ramp down, so that what a server keeps afterwards can be seen. spike: a fifth, and all of them in the middle fifth.

    ```python
    users_at("step", 0.5, users=10)  # 6
    ```
    """
    if shape == "step":
        wanted = users * (int(moment * STEPS) + 1) / STEPS
    elif shape == "soak":
        wanted = users * min(1.0, max(moment, 0.0) / RAMP, (1 - moment) / RAMP)
    elif shape == "spike":
        wanted = users if SPIKE[0] <= moment < SPIKE[1] else users * CALM
    else:
        wanted = users
    return min(max(round(wanted), 1), users)
