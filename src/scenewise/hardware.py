"""What this machine gives a process: processor cores, bfloat16 where it is computed in, float32 that is float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch


def cores() -> int:
    """Return how many cores this process may use: of a machine that several share, its own (SLURM, containers)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def computes_in_bf16(kind: str) -> bool:
    """Return whether the devices of a kind (`cuda`, `cpu`) compute in bfloat16 and not merely hold it.

    GPUs do from compute capability 8.0 on, CPUs with AVX512-BF16 or AMX. torch emulates it elsewhere: slower than
    float32, and without convolutions of cuDNN's.
    """
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextmanager
def exact_float32() -> Iterator[None]:
    """Have a GPU compute float32 in float32; torch lets its convolutions round to 10 bits (TF32) unless told.

    Its matrix products do so where the caller has allowed it (`torch.set_float32_matmul_precision`).
    """
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with _exact_convolutions():
            yield
    finally:
        torch.set_float32_matmul_precision(products)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    switch: tuple[Any, str, bool | str] = (cudnn, "allow_tf32", False)
    try:
        before = getattr(*switch[:2])
    except RuntimeError:  # torch since 2.9, where the caller has used its newer setting: the two do not mix
        switch = (cudnn.conv, "fp32_precision", "ieee")
        before = getattr(*switch[:2])
    setattr(*switch)
    try:
        yield
    finally:
        setattr(*switch[:2], before)
