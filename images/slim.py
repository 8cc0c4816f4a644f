"""Remove from this interpreter's packages what serving never imports: test suites, and ONNX Runtime's converters."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

UNUSED = ("transformers", "tools", "quantization", "datasets")


def slim(packages: Path) -> int:
    """Remove them; how many bytes that freed."""
    folders = [folder for folder in packages.rglob("tests") if folder.is_dir()]
    folders += [packages / "onnxruntime" / name for name in UNUSED]
    freed = 0
    for folder in folders:
        freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return freed


if __name__ == "__main__":
    print(f"removed {slim(Path(sysconfig.get_paths()['purelib'])) / 1e6:.0f} MB")
