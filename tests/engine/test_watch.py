"""What is watched: figures as plain numbers, of all processes, fetched together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scenewise.engine import watch
from scenewise.engine.watch import as_figures, term_gradients
from scenewise.types import StepOutput


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend a second process whose figures are all 1 larger; return the lengths of what is exchanged."""
    lengths: list[int] = []

    def mean_of_two(values: Tensor) -> Tensor:
        lengths.append(len(values))
        return values + 0.5

    monkeypatch.setattr(watch, "mean_over_ranks", mean_of_two)
    return lengths


def test_alone_figures_are_what_they_were_to_the_last_bit() -> None:
    values = {"loss": torch.tensor(0.1, requires_grad=True), "lr": 0.1, "share": torch.tensor(1 / 3).bfloat16(), "k": 3}
    found = as_figures(values)
    assert list(found) == list(values)
    assert found == {"loss": float(torch.tensor(0.1)), "lr": 0.1, "share": float(values["share"]), "k": 3.0}
    assert as_figures({"lr": 0.1}) == {"lr": 0.1}
    assert as_figures({}) == {}


def test_figures_are_the_mean_over_all_processes_in_one_message(messages: list[int]) -> None:
    found = as_figures({"loss": torch.tensor(2.0), "lr": 0.1, "queue/fill": torch.tensor(0.0)})
    assert found == {"loss": 2.5, "lr": 0.1, "queue/fill": 0.5}
    assert messages == [2]


def test_gradient_norms_are_of_all_processes(messages: list[int]) -> None:
    embeddings = nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    embeddings.requires_grad_()
    constant = torch.zeros(())
    output = StepOutput(
        loss=embeddings[:, 0].mean(),
        terms={"first": embeddings[:, 0].mean(), "double": 2 * embeddings[:, 0].mean(), "silent": constant},
        embeddings=embeddings,
        targets=embeddings.detach(),
        features=embeddings.detach(),
    )
    # each row has length 1 and the gradient 1 / 4 in one place: a norm of 1 a query, of 1.5 with the other process
    assert term_gradients(output) == pytest.approx({"grad/first": 1.5, "grad/double": 2.5})
    assert messages == [2]
