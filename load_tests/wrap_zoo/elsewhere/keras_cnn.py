"""A small Keras network on TensorFlow, trained on class folders and exported through tf2onnx.

`python keras_cnn.py PHOTOS OUT`, in the environment of requirements-keras.txt. It takes NHWC pixels from 0 to 255.
"""

import sys
from pathlib import Path

import keras
from keras import layers

SIZE, EPOCHS = 64, 8


def main(photos: Path, out: Path) -> None:
    """Train on photos/train, and write out/model.onnx and out/classes.txt."""
    keras.utils.set_random_seed(0)
    found = keras.utils.image_dataset_from_directory(photos / "train", image_size=(SIZE, SIZE), batch_size=32, seed=0)
    classes = found.class_names
    pixels = layers.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    x = layers.RandomTranslation(0.1, 0.1)(layers.RandomFlip("horizontal")(x))
    for width in (32, 64, 128, 192):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(pixels, layers.Dense(len(classes), activation="softmax")(x))
    model.compile(keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(found.cache(), epochs=EPOCHS, verbose=2)
    out.mkdir(parents=True, exist_ok=True)
    (out / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    # Augmentation is no part of what is exported.
    plain = keras.Sequential([layer for layer in model.layers if not layer.name.startswith("random")])
    plain(keras.ops.zeros((1, SIZE, SIZE, 3)))
    plain.export(out / "model.onnx", format="onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
