#!/usr/bin/env bash
# Watching one file ends with its first replacement, and never begins for a mounted secret; nothing says so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check watchfiles==1.3.0 anyio==4.16.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import os
import tempfile
import threading
import time

import watchfiles

print("watchfiles", watchfiles.__version__)


def replace(folder, text):
    """As editors and configuration tools write: a new file, renamed over the old one."""
    with open(f"{folder}/new", "w") as file:
        file.write(text)
    os.rename(f"{folder}/new", f"{folder}/keys")


def mount(folder, version):
    """As Kubernetes refreshes a mounted Secret: a new folder, and the link ..data turned to it."""
    os.mkdir(f"{folder}/..{version}")
    with open(f"{folder}/..{version}/keys", "w") as file:
        file.write(str(version))
    os.symlink(f"..{version}", f"{folder}/..link")
    os.rename(f"{folder}/..link", f"{folder}/..data")


def watched(folder, path, *changes):
    """How many of the changes were noticed, one by one."""
    noticed, stop = [], threading.Event()
    thread = threading.Thread(target=lambda: [noticed.append(found) for found in watchfiles.watch(path, stop_event=stop, rust_timeout=100, debounce=100, step=20)])
    thread.start()
    time.sleep(2)
    seen = []
    for change in changes:
        before = len(noticed)
        change()
        time.sleep(2)
        seen.append(len(noticed) > before)
    stop.set()
    thread.join()
    return seen


for whole_folder in (False, True):
    folder = tempfile.mkdtemp(dir=".")
    replace(folder, "0")
    replaced = watched(folder, folder if whole_folder else f"{folder}/keys", *(lambda text=text: replace(folder, text) for text in "123"))
    folder = tempfile.mkdtemp(dir=".")
    mount(folder, 0)
    os.symlink("..data/keys", f"{folder}/keys")
    mounted = watched(folder, folder if whole_folder else f"{folder}/keys", lambda: mount(folder, 1), lambda: mount(folder, 2))
    print(f"watching {'its folder' if whole_folder else 'the file'}: three replacements noticed {replaced}, two refreshes of a mounted secret {mounted}")
    assert replaced == ([True] * 3 if whole_folder else [True, False, False])
    assert mounted == ([True] * 2 if whole_folder else [False, False])
PY
