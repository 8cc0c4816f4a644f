"""Where training runs: one CPU process, one GPU, several GPUs, or several machines under torchrun. By Lightning Fabric.

Every process calls the same functions in the same order with the same seed. Steps divide a batch among the processes,
gradients are averaged, and what is written is written by one of them (`compute.is_global_zero`).
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from oodguard.core.errors import InputError


def start_compute(devices: int = 0) -> Fabric:
    """The processes to train on, started.

    `devices`: GPUs, or CPU processes, on this machine; 0 takes every GPU, or one CPU process. Under torchrun its
    processes are taken as they are. GPUs compute in bfloat16 where they can. Raises `InputError` for more GPUs than
    there are.
    """
    cuda = torch.cuda.is_available()
    # It announces every process group it starts.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if world > 1:
        here, machines = local, max(world // local, 1)
    else:
        here, machines = devices or (torch.cuda.device_count() if cuda else 1), 1
    if cuda and here > torch.cuda.device_count():
        raise InputError(f"{here} GPUs were asked for and this machine has {torch.cuda.device_count()}")
    several = here * machines > 1
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=here,
        num_nodes=machines,
        # An LDR step leaves inactive members out, so that some parameters have no gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision="bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true",
    )
    fabric.launch()
    if several:
        # A group that is still open when the interpreter ends may abort the process.
        atexit.register(_leave_group)
    return fabric


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """So many CPU threads for PyTorch within the block; 0: as many as it has.

    Sums are divided among the threads: the same numbers under a seed need the same count. Products that are too small
    to share take one, since spinning threads cost more than they give.
    """
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
