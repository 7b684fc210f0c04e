"""What a run leaves to the machine it is on: device, precision, processes and threads, decided and set here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import cv2
import torch

from scenewise.engine.config import EngineConfig
from scenewise.engine.processes import local_world
from scenewise.errors import UserError, unknown_name
from scenewise.hardware import computes_in_bf16, cores, exact_float32
from scenewise.views.opencv import use_one_thread

DEVICES = ("cpu", "cuda", "auto")


def choose_device(asked: str) -> Literal["cpu", "cuda"]:
    """Return cpu or cuda; raises UserError for another name, and when a GPU is asked for and there is none."""
    if asked not in DEVICES:
        raise UserError(unknown_name("device", asked, DEVICES))
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device: 'cuda' was asked for, but torch sees no GPU here; use cpu or auto")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(asked: Literal["auto", "32", "bf16"], device: str) -> Literal["32", "bf16"]:
    """Return 32 or bf16: bf16 where the device computes in it."""
    if asked != "auto":
        return asked
    return "bf16" if computes_in_bf16(device) else "32"


def choose_photometrics(asked: Literal["auto", "cpu", "device"], device: str) -> Literal["cpu", "device"]:
    """Return where the photometric work is done: by the loader's processes, unless a GPU trains."""
    if asked != "auto":
        return asked
    return "device" if device == "cuda" else "cpu"


def cores_of_process() -> int:
    """Return how many cores there are for each of the run's processes on this machine."""
    return max(1, cores() // local_world())


def choose_workers(asked: int | None) -> int:
    """Return how many loader processes each of the run's processes has: one a core and at most 8, unless asked."""
    return min(8, cores_of_process()) if asked is None else asked


def decide_engine(config: EngineConfig) -> EngineConfig:
    """Fill what depends on this machine."""
    device = choose_device(config.device)
    return dataclasses.replace(
        config,
        device=device,
        precision=choose_precision(config.precision, device),
        photometrics=choose_photometrics(config.photometrics, device),
        workers=choose_workers(config.workers),
        threads=torch.get_num_threads() if config.threads is None else config.threads,
    )


@contextmanager
def computing(device: str, precision: str, *, threads: int | None = None) -> Iterator[None]:
    """Compute reproducibly, with so many threads where a CPU trains; leave torch's global state as it was."""
    threads_before, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    exact = exact_float32() if precision == "32" else nullcontext()
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that, and hang who waits for them
    cudnn.deterministic, cudnn.benchmark = True, False  # law 2: the same bytes on the same device
    if device == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]), exact:
            yield
    finally:
        torch.set_num_threads(threads_before)
        cv2.setNumThreads(opencv_threads)
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
