"""Cases with values and gradients from independent references, computed in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scenewise import losses

CASES = json.loads((Path(__file__).parent / "golden.json").read_text())
DTYPES = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}


def decode(value):
    if isinstance(value, dict):
        return torch.tensor(value["data"], dtype=DTYPES[value["tensor"]]).reshape(value["shape"])
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["function"].rsplit(".", 1)[1])
def test_case(case):
    function = getattr(losses, case["function"].rsplit(".", 1)[1])
    arguments = [decode(value) for value in case["args"]]
    if "gradient" in case:
        arguments[0].requires_grad_()
    named = {name: decode(value) for name, value in case["kwargs"].items()}
    if "assign" in named:
        named["assign"] = tuple(named["assign"])
    got = function(*arguments, **named)
    expected = torch.as_tensor(decode(case["expected"]), dtype=got.dtype)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    if "gradient" in case:
        (gradient,) = torch.autograd.grad(got, arguments[0])
        limit = case.get("gradient_tolerance", 1e-5)
        torch.testing.assert_close(gradient, decode(case["gradient"]), rtol=limit, atol=limit / 10)
