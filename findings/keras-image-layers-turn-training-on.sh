#!/usr/bin/env bash
# Keras: one Resizing, CenterCrop or AutoContrast layer in a model turns training mode on behind it, for model(x) and for the exported ONNX file; predict() is right.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
  keras==3.15.1 tensorflow-cpu==2.21.0 tf2onnx==1.17.0 onnx==1.20.1 onnxruntime==1.31.1 numpy==2.4.6 protobuf==7.36.2 \
  absl-py==2.5.1 astunparse==1.6.3 certifi charset-normalizer flatbuffers==25.12.19 gast==0.7.0 google-pasta==0.2.0 \
  grpcio==1.85.3 h5py==3.14.0 idna libclang==18.1.1 markdown-it-py mdurl ml_dtypes==0.6.0 namex==0.1.0 opt_einsum==3.4.0 \
  optree==0.20.0 packaging Pygments requests rich six termcolor==3.3.0 typing_extensions urllib3 wheel wrapt==2.5.2 \
  2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 "$tmp/venv/bin/python" - <<'PY' 2>/dev/null
import keras
import numpy as np
import onnx
import onnxruntime
from keras import layers

print("keras", keras.__version__, "onnxruntime", onnxruntime.__version__)
photos = np.random.default_rng(0).random((4, 64, 64, 3)).astype("float32")


def largest(one, other):
    return float(abs(one - other).max())


for first, is_wrong in (
    (layers.Rescaling(1 / 255), False),
    (layers.Resizing(48, 48), True),
    (layers.CenterCrop(48, 48), True),
    (layers.AutoContrast(), True),
):
    keras.utils.set_random_seed(0)
    pixels = layers.Input((64, 64, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3)(first(pixels)))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, layers.Dense(5, activation="softmax")(x))
    right = model.predict(photos, verbose=0)
    model.export("model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    together, alone = session.run(None, {name: photos})[0], session.run(None, {name: photos[:1]})[0]
    statistics = [node for node in onnx.load("model.onnx").graph.node if node.op_type == "ReduceMean"]
    called = np.asarray(model(photos))
    moved = largest(model.predict(photos, verbose=0), right)
    file, neighbours, call = largest(together, right), largest(together[:1], alone), largest(called, right)
    print(
        f"{type(first).__name__}: predict() against the ONNX file {file:.4f} and model(x) {call:.4f}; the first photo "
        f"of the file with its neighbours and alone {neighbours:.4f}; predict() after one model(x) {moved:.4f}; "
        f"means over the batch in the file: {len(statistics)}"
    )
    if is_wrong:
        assert file > 0.05 and call > 0.05 and neighbours > 5e-4 and moved > 1e-5 and statistics
        assert largest(np.asarray(model(photos, training=False)), model.predict(photos, verbose=0)) < 1e-6
    else:
        assert max(file, neighbours, call, moved) < 1e-6 and not statistics
PY
