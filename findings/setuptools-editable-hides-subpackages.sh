#!/usr/bin/env bash
# An editable install of packages mapped to other folders: imports work, pkgutil and mypy find nothing.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
mkdir -p project/parts
cat > project/pyproject.toml <<'TOML'
[build-system]
requires = ["setuptools==84.2.1"]
build-backend = "setuptools.build_meta"

[project]
name = "sentry-box"
version = "1"

[tool.setuptools]
packages = ["sentry_box.parts"]
package-data = { "*" = ["py.typed"] }

[tool.setuptools.package-dir]
"sentry_box.parts" = "parts"
TOML
echo 'def answer() -> int: return 42' > project/parts/__init__.py
touch project/parts/py.typed
cat > use.py <<'PY'
import pkgutil

import sentry_box
from sentry_box.parts import answer

print("imports:", answer(), "pkgutil:", [module.name for module in pkgutil.walk_packages(sentry_box.__path__, "sentry_box.")])
PY
for kind in usual editable; do
  python3 -m venv "$kind"
  "$kind/bin/pip" install --quiet --disable-pip-version-check mypy==2.4.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
  if [ "$kind" = editable ]; then flag=--editable; else flag=; fi
  "$kind/bin/pip" install --quiet --disable-pip-version-check $flag ./project 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
  "$kind/bin/python" use.py > "$kind.out"
  "$kind/bin/mypy" use.py > "$kind.mypy" || true
  echo "setuptools 84.2.1, $("$kind/bin/mypy" --version | cut -d' ' -f1-2), $kind install: $(cat "$kind.out"); mypy: $(grep -c 'error' "$kind.mypy" || true) lines with errors, last: $(tail -1 "$kind.mypy")"
done
grep -q "imports: 42 pkgutil: \['sentry_box.parts'\]" usual.out
grep -q "Success" usual.mypy
grep -q "imports: 42 pkgutil: \[\]" editable.out
grep -q "import-not-found" editable.mypy
