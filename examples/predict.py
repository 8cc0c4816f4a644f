"""Sort images into two lists with the Python client: those whose label can be trusted, and those to look at.

pip install "path/to/clone[client]"
python predict.py http://localhost:8000 photo.jpg other.jpg
"""

import os
import sys
from pathlib import Path

from oodguard.clients import Client
from oodguard.core.errors import OodguardError


def main(url, *names):
    """Print one line an image; 1 when one could not be judged."""
    failed = False
    with Client(url, key=os.environ.get("OODGUARD_KEY")) as client:
        # One request an image, several under way; the server makes batches of them.
        for result in client.stream(Path(name) for name in names):
            if result.prediction is None:
                failed = True
                print(f"{result.image}: cannot be judged: {result.problem.detail}")
            elif result.prediction.is_ood:
                found = result.prediction
                print(f"{result.image}: look at it ({found.ood_score:.1f} is above {found.threshold:.1f})")
            else:
                print(f"{result.image}: {result.prediction.label} ({result.prediction.probability:.0%})")
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except OodguardError as error:
        sys.exit(f"error: {error}")
