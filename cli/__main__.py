"""The command `oodguard`, also as `python -m oodguard.cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; where its packages are missing, say what installs them."""
    try:
        from oodguard.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("oodguard"):
            raise
        sentence = f"the command needs the package {error.name}; pip install 'oodguard[cli]'"
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(3)
    run()


if __name__ == "__main__":
    main()
