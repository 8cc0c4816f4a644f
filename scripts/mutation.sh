#!/usr/bin/env bash
# Mutation testing with cosmic-ray: changes one operator, number or comparison at a time and runs the module's tests.
# Prints every mutant that no test noticed. Works on a copy of the checkout; takes about a second per mutant.
#
#     scripts/mutation.sh                                   # the rooms and modules listed below
#     scripts/mutation.sh core/curve.py core/fusion.py      # some of them
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$PWD/.venv/bin/python}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What runs for a module: its own tests, without the fixtures that train.
tests_of() {
  case "$1" in
    core/*) echo "--confcutdir=tests/core tests/core" ;;
    server/batcher.py) echo "--confcutdir=tests/core -p tests.core.conftest tests/server/test_batcher.py" ;;
    *) echo "no tests are listed for $1; add them to scripts/mutation.sh" >&2; exit 2 ;;
  esac
}

modules=("$@")
if [ ${#modules[@]} -eq 0 ]; then
  modules=(core/curve.py core/fusion.py core/calibration.py core/verdict.py core/manifest.py core/formats.py
           core/preprocessing.py core/problems.py core/files.py server/batcher.py)
fi

"$python" -m venv "$work/tool"
"$work/tool/bin/pip" install --quiet --disable-pip-version-check "cosmic-ray==8.7.0" 2>/dev/null
git clone --quiet . "$work/tree"
cp -r core server tests "$work/tree/"
cd "$work/tree"
for module in "${modules[@]}"; do
  cat > "$work/config.toml" <<CONFIG
[cosmic-ray]
module-path = "$module"
timeout = 60.0
excluded-modules = []
test-command = "env PYTHONPATH=$work/tree $python -m pytest -x -q -p no:cacheprovider $(tests_of "$module")"
[cosmic-ray.distributor]
name = "local"
# `A | B` stands in annotations alone, which nothing evaluates.
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
CONFIG
  rm -f "$work/session.sqlite"
  "$work/tool/bin/cosmic-ray" init "$work/config.toml" "$work/session.sqlite"
  "$work/tool/bin/cr-filter-operators" "$work/session.sqlite" "$work/config.toml"
  "$work/tool/bin/cosmic-ray" exec "$work/config.toml" "$work/session.sqlite"
  echo "== $module"
  "$work/tool/bin/cr-report" --surviving-only --show-diff "$work/session.sqlite"
done
