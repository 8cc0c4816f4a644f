#!/usr/bin/env bash
# An environment variable that is set but empty makes an optional path the current folder, not None.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.3 pydantic-settings==2.16.3 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
import os
from pathlib import Path

import pydantic
import pydantic_settings

print("pydantic-settings", md.version("pydantic-settings"), "pydantic", pydantic.VERSION)


class Settings(pydantic_settings.BaseSettings):
    model_config = pydantic_settings.SettingsConfigDict(env_prefix="APP_")

    sample_dir: Path | None = None
    key_file: pydantic.FilePath | None = None
    folder: pydantic.DirectoryPath | None = None
    limit: int | None = None


def read(name):
    os.environ[f"APP_{name}".upper()] = ""
    try:
        return getattr(Settings(), name)
    except pydantic.ValidationError as error:
        return error.errors()[0]["type"]
    finally:
        del os.environ[f"APP_{name}".upper()]


seen = {name: read(name) for name in ("sample_dir", "folder", "key_file", "limit")}
print("set but empty:", seen)
assert seen == {"sample_dir": Path("."), "folder": Path("."), "key_file": "path_not_file", "limit": "int_parsing"}
Settings.model_config["env_ignore_empty"] = True
seen = {name: read(name) for name in seen}
print("with env_ignore_empty:", seen)
assert set(seen.values()) == {None}
PY
