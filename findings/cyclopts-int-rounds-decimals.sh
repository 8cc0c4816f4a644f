#!/usr/bin/env bash
# An int parameter takes "2.7", and rounds halves to even.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check cyclopts==5.4.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import cyclopts

print("cyclopts", cyclopts.__version__)
app = cyclopts.App(result_action="return_value")


@app.default
def command(k: int = 5):
    return k


def parsed(text):
    try:
        return app(["--k", text], exit_on_error=False, print_error=False)
    except cyclopts.CoercionError:
        return "refused"


seen = {text: parsed(text) for text in ("2.7", "0.4", "2.5", "3.5", "9007199254740993.0", "1e3", "2,5")}
print("--k", seen)
assert seen == {"2.7": 3, "0.4": 0, "2.5": 2, "3.5": 4, "9007199254740993.0": 9007199254740992, "1e3": "refused", "2,5": "refused"}
PY
