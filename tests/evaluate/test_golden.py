"""Cases with values from independent references, computed in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scenewise.evaluate import metrics

CASES = json.loads((Path(__file__).parent / "golden.json").read_text())
DTYPES = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}


def decode(value):
    if isinstance(value, dict):
        return torch.tensor(value["data"], dtype=DTYPES[value["tensor"]]).reshape(value["shape"])
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["function"].rsplit(".", 1)[1])
def test_case(case):
    function = getattr(metrics, case["function"].rsplit(".", 1)[1])
    arguments = [decode(value) for value in case["args"]]
    got = torch.as_tensor(function(*arguments, **case["kwargs"]))
    expected = torch.as_tensor(decode(case["expected"]), dtype=got.dtype)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
