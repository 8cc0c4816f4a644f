"""Sort images into two lists without a server: those whose label can be trusted, and those to look at.

pip install "path/to/clone[guard]"
python embedded.py bundles/photos photo.jpg other.jpg
"""

import sys

import oodguard


def main(bundle, *paths):
    """Print one line per image; return 1 when one could not be judged."""
    failed = False
    with oodguard.load(bundle) as guard:
        # The guard decodes images and runs batches of them side by side; results come in the order of the paths.
        for result in guard.stream(paths):
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
    except oodguard.OodguardError as error:
        sys.exit(f"error: {error}")
