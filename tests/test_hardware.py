"""What the machine gives: torch's switches for exact float32, in its older and its newer form, and as they were."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from scenewise.hardware import exact_float32

NEWER = """
import torch
from scenewise.hardware import exact_float32
conv = torch.backends.cudnn.conv
conv.fp32_precision = "tf32"
torch.backends.cudnn.rnn.fp32_precision = "ieee"
with exact_float32():
    assert conv.fp32_precision == "ieee"
assert conv.fp32_precision == "tf32"
"""


def test_float32_is_exact_inside_and_as_it_was_outside() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as notebooks do
    try:
        with pytest.raises(ZeroDivisionError), exact_float32():
            assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
            raise ZeroDivisionError
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (before[0], "high")
    finally:
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has the older switch alone")
def test_a_caller_may_have_used_torchs_newer_switches() -> None:
    """Reading the older one is an error then. In a process of its own, as the two cannot be mixed back."""
    done = subprocess.run([sys.executable, "-c", NEWER], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
