"""The networks: what made each, how its author prepares pixels, and what has to be said to `oodguard wrap` by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Rows = npt.NDArray[np.float32]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class OwnPixels:
    """The author's preprocessing, written again with Pillow and NumPy so that nothing of oodguard judges itself."""

    height: int
    width: int
    resize: int | None
    """Of the shorter side before the middle is cut out; None: each side is squashed to the input's."""
    scale: float = 255.0
    normal: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    bgr: bool = False
    nhwc: bool = False

    def __call__(self, path: Path) -> Rows:
        """`[3, H, W]` or `[H, W, 3]` float32 of one file."""
        with Image.open(path) as file:
            picture = file.convert("RGB")
        size = (self.width, self.height)
        if self.resize is not None:
            short = min(picture.size)
            size = (picture.width * self.resize // short, picture.height * self.resize // short)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - self.width) / 2), round((size[1] - self.height) / 2)
        picture = picture.crop((left, top, left + self.width, top + self.height))
        pixels = np.asarray(picture, np.float32)[..., :: -1 if self.bgr else 1]
        mean, std = (np.asarray(values, np.float32) for values in self.normal)
        pixels = (pixels / np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(pixels if self.nhwc else pixels.transpose(2, 0, 1))


@dataclass(frozen=True, kw_only=True)
class Network:
    """One row of the table."""

    name: str
    made_by: str
    file: str
    """Below the folder of networks."""
    photos: Literal["produce", "lines", "none"] | int = "produce"
    """What it was trained on: a seed stands for produce without that seed's eight classes; none: random weights."""
    pixels: OwnPixels | None = None
    said: tuple[str, ...] = ()
    """Options of `oodguard wrap`; {here} stands for the file's folder."""


def _torch(size: int, *, half: bool = False) -> OwnPixels:
    return OwnPixels(height=size, width=size, resize=size * 8 // 7, normal=HALF if half else IMAGENET)


_NAMES = ("--classes", "{here}/classes.txt")
_LIGHT = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
          "vgg19", "zfnet512")  # fmt: skip

RESNET, MOBILENET, LITE = _torch(64), _torch(96), _torch(128)
_SAID: Mapping[int, tuple[str, ...]] = {
    # The trial finds the values; how far pictures were resized before the middle was cut, no file says.
    size: ("--resize", str(size * 8 // 7), "--interpolation", "bilinear")
    for size in (64, 96, 128)
}

NETWORKS: tuple[Network, ...] = (
    Network(name="resnet18", made_by="torchvision 0.28.0, default exporter", file="resnet18/classifier.onnx",
            pixels=RESNET, said=_SAID[64]),
    Network(name="resnet18-script", made_by="torchvision 0.28.0, dynamo=False",
            file="resnet18/classifier-script.onnx", pixels=RESNET, said=_SAID[64]),
    Network(name="mobilenetv3", made_by="torchvision 0.28.0, default exporter",
            file="mobilenet_v3_small/classifier.onnx", pixels=MOBILENET, said=_SAID[96]),
    Network(name="mobilenetv3-script", made_by="torchvision 0.28.0, dynamo=False",
            file="mobilenet_v3_small/classifier-script.onnx", pixels=MOBILENET, said=_SAID[96]),
    Network(name="lite2", made_by="timm 1.0.31 tf_efficientnet_lite2, default exporter", file="lite2/classifier.onnx",
            pixels=LITE, said=_SAID[128]),
    Network(name="lite2-checkpoint", made_by="timm 1.0.31 tf_efficientnet_lite2, checkpoint",
            file="lite2/checkpoint.pth", pixels=LITE,
            said=("--backbone", "tf_efficientnet_lite2", "--crop", "128", *_SAID[128], *_NAMES)),
    Network(name="transformers-vit", made_by="transformers 5.23.0 ViT, default exporter",
            file="transformers-vit/model.onnx", pixels=OwnPixels(height=64, width=64, resize=None, normal=HALF),
            said=("--preprocessing", "{here}/preprocessor_config.json", "--classes", "{here}/config.json")),
    Network(name="keras-cnn", made_by="Keras 3.15.1 on TensorFlow 2.21.0, tf2onnx 1.17.0", file="keras-cnn/model.onnx",
            pixels=OwnPixels(height=64, width=64, resize=None, scale=1, normal=RAW, nhwc=True),
            said=("--fit", "squash")),
    Network(name="resnet18-qdq", made_by="ONNX Runtime 1.31.1 quantize_static", file="resnet18/static.onnx",
            pixels=RESNET, said=_SAID[64]),
    Network(name="resnet18-int8", made_by="ONNX Runtime 1.31.1 quantize_dynamic", file="resnet18/dynamic.onnx",
            pixels=RESNET, said=_SAID[64]),
    Network(name="text-direction", made_by="rapidocr-onnxruntime 1.4.4 (PaddleOCR's, packaged)",
            file="text-direction/ch_ppocr_mobile_v2.0_cls_infer.onnx", photos="lines",
            pixels=OwnPixels(height=48, width=192, resize=None, normal=HALF, bgr=True),
            said=("--fit", "squash", "--crop", "48", "--width", "192", "--channels", "bgr",
                  "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5", *_NAMES)),
    *(Network(name=f"lite0-left-out-{seed}", made_by="timm 1.0.31 tf_efficientnet_lite0, checkpoint",
              file=f"lite0-left-out-{seed}/checkpoint.pth", photos=seed, pixels=_torch(224, half=True),
              said=("--backbone", "tf_efficientnet_lite0", "--resize", "256", "--interpolation", "bilinear",
                    "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5", *_NAMES))
      for seed in range(3)),
    Network(name="timm-vit", made_by="timm 1.0.31 ViT, default exporter, random", file="timm-vit/classifier.onnx",
            photos="none"),
    Network(name="timm-convnext", made_by="timm 1.0.31 ConvNeXt, default exporter, random",
            file="timm-convnext/classifier.onnx", photos="none"),
    *(Network(name=f"light-{name}", made_by="onnx 1.23.2, 2017's exporters", file=f"light/light_{name}.onnx",
              photos="none")
      for name in _LIGHT),
)  # fmt: skip
