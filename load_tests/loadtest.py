"""A load test in one command: starts a server on a bundle, lets locust's users call it, prints the summary.

    python load_tests/loadtest.py BUNDLE --shape spike --people 40 --seconds 60 --max-p99-ms 500

Every option but --serve is locust's or locustfile.py's; the exit code is locust's: 1 when a threshold was missed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import OtherPrograms, run_script

LOCUSTFILE = Path(__file__).resolve().parent / "locustfile.py"


def locust_command(url: str, *options: str) -> list[str]:
    """Locust without its page and its own tables, against `url`."""
    quiet = ["--headless", "--only-summary", "--loglevel", "ERROR"]
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", url, *quiet, *options]


def main() -> None:
    """Serve, call, and end with locust's exit code."""
    parser = argparse.ArgumentParser(
        description="A load test with a server of its own; see also locust -f load_tests/locustfile.py --help."
    )
    parser.add_argument("bundle", type=Path, help="bundle folder written by oodguard export")
    parser.add_argument("--serve", default="", help='options for oodguard serve, as one string: "--max-batch 8"')
    options, rest = parser.parse_known_args()
    others = OtherPrograms()
    with Gateway(options.bundle, *shlex.split(options.serve)) as gateway:
        ran = subprocess.run(locust_command(gateway.url, *rest), stdin=subprocess.DEVNULL, check=False)
    others.report()
    sys.exit(ran.returncode)


if __name__ == "__main__":
    run_script(main)
