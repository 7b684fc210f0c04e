"""What a run leaves to the machine it is on: device, precision, processes and threads, decided here."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import torch

from scenewise.engine.config import EngineConfig
from scenewise.engine.processes import local_world
from scenewise.errors import UserError, unknown_name

DEVICES = ("cpu", "cuda", "auto")


def choose_device(asked: str) -> Literal["cpu", "cuda"]:
    """Return cpu or cuda; raises UserError for another name, and when a GPU is asked for and there is none."""
    if asked not in DEVICES:
        raise UserError(unknown_name("device", asked, DEVICES))
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device: 'cuda' was asked for, but torch sees no GPU here; use cpu or auto")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(asked: Literal["auto", "32", "bf16"], device: str) -> Literal["32", "bf16"]:
    """Return 32 or bf16: bf16 where the device computes in it (CPUs: AVX512-BF16 or AMX)."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "32"
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "32"


def choose_photometrics(asked: Literal["auto", "cpu", "device"], device: str) -> Literal["cpu", "device"]:
    """Return where the photometric work is done: by the loader's processes, unless a GPU trains."""
    if asked != "auto":
        return asked
    return "device" if device == "cuda" else "cpu"


def cores_of_process() -> int:
    """Return how many of this machine's cores there are for each of the run's processes on it."""
    return max(1, (os.cpu_count() or 1) // local_world())


def decide_engine(config: EngineConfig) -> EngineConfig:
    """Fill what depends on this machine."""
    device = choose_device(config.device)
    return dataclasses.replace(
        config,
        device=device,
        precision=choose_precision(config.precision, device),
        photometrics=choose_photometrics(config.photometrics, device),
        workers=min(8, cores_of_process()) if config.workers is None else config.workers,
        threads=torch.get_num_threads() if config.threads is None else config.threads,
    )
