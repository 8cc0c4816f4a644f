"""Image classifiers that know when not to answer.

```python
import oodguard

with oodguard.load("bundles/photos") as guard:
    for prediction in guard.predict(["photo.jpg", "other.jpg"]).predictions:
        print(prediction.file, prediction.label, prediction.is_ood)
```

`load` and `aload` give a guard in the caller's own process; `oodguard.clients` asks a server. Everything here is
imported when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oodguard.core.answers import Prediction, PredictResponse, Result
    from oodguard.core.errors import OodguardError
    from oodguard.core.preprocessing import ImageLimits
    from oodguard.core.problems import Problem, Refused
    from oodguard.server.guard import AsyncGuard, Guard, aload, load
    from oodguard.wrapping.around import wrap_module as wrap

    __version__: str
else:
    _HOMES = {
        "oodguard.core.answers": ("PredictResponse", "Prediction", "Result"),
        "oodguard.core.errors": ("OodguardError",),
        "oodguard.core.preprocessing": ("ImageLimits",),
        "oodguard.core.problems": ("Problem", "Refused"),
        "oodguard.server.guard": ("AsyncGuard", "Guard", "aload", "load"),
        "oodguard.wrapping.around": ("wrap",),
    }
    # What a name is called in its module, where that is longer.
    _OWN_NAMES = {"wrap": "wrap_module"}

    def __getattr__(name: str) -> object:
        if name == "__version__":
            found = importlib.import_module("importlib.metadata").version("oodguard")
        else:
            home = next((module for module, names in _HOMES.items() if name in names), None)
            if home is None:
                raise AttributeError(f"module 'oodguard' has no attribute {name!r}")
            found = getattr(importlib.import_module(home), _OWN_NAMES.get(name, name))
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return __all__


__all__ = [
    "AsyncGuard",
    "Guard",
    "ImageLimits",
    "OodguardError",
    "PredictResponse",
    "Prediction",
    "Problem",
    "Refused",
    "Result",
    "__version__",
    "aload",
    "load",
    "wrap",
]

# ONNX Runtime reports to its makers unless it is told not to before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if not os.path.isdir(os.path.join(__path__[0], "core")):  # noqa: PTH112, PTH118 (pathlib takes longer to import)
    raise ImportError(
        "oodguard/core is not a folder, because git checked this clone out without symbolic links; on Windows, switch on "
        "Developer Mode, run `git config core.symlinks true` and `git checkout -- oodguard`, or install a wheel"
    )
