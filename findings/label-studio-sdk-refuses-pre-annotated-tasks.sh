#!/usr/bin/env bash
# LabelInterface.validate_task raises on every task that brings predictions or annotations, which Label Studio imports.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check label-studio-sdk==2.1.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

from label_studio_sdk.label_interface import LabelInterface

print("label-studio-sdk", md.version("label-studio-sdk"))
interface = LabelInterface(
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="jade"/><Choice value="plum"/></Choices></View>'
)
region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["jade"]}}
plain = {"data": {"image": "https://example.com/1.jpg"}}
prediction = {"model_version": "1", "score": 0.5, "result": [region]}
print("task without predictions:", interface.validate_task(plain))
print("prediction alone:", interface.validate_prediction(prediction))
assert interface.validate_task(plain) is True
assert interface.validate_prediction(prediction) is True
for name, found in (("predictions", [prediction]), ("annotations", [{"result": [region]}])):
    try:
        print(f"task with {name}:", interface.validate_task({**plain, name: found}))
    except TypeError as error:
        print(f"task with {name}: TypeError, {error}")
        assert "missing 1 required positional argument" in str(error)
    else:
        raise SystemExit("it is validated")
PY
