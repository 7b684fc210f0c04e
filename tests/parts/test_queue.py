"""The dictionary of past keys against a plain list, its snapshots, and the choice of its length."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from scenewise.errors import UserError
from scenewise.losses import info_nce
from scenewise.parts.queue import Queue, Snapshot, dictionary_figures, resolve_dictionary_size, uniform_share

WIDTHS = {"feature": 3, "projection": 2}


def marked(numbers: list[int], width: int) -> Tensor:
    """Return one row a number whose direction tells the number; its length is not 1."""
    angles = torch.tensor([0.01 * number + 0.1 * width for number in numbers], dtype=torch.float64)
    rows = torch.zeros(len(numbers), width, dtype=torch.float64)
    rows[:, 0], rows[:, 1] = angles.cos(), angles.sin()
    return (3.0 * rows).float()


def push(queue: Queue, numbers: list[int], step: int) -> None:
    """Push a batch in which everything about a row follows from its number."""
    queue.push(
        {name: marked(numbers, width) for name, width in WIDTHS.items()},
        image=torch.tensor(numbers, dtype=torch.int64),
        box=torch.tensor([[number, number + 1, number + 2, number + 3] for number in numbers], dtype=torch.float32),
        step=step,
    )


def contents(snapshot: Snapshot) -> list[tuple[int, int]]:
    """Return (image, step) of the written rows by place, after checking that every column belongs to that image."""
    images = snapshot.image[snapshot.valid].tolist()
    for name, width in WIDTHS.items():
        torch.testing.assert_close(snapshot.rows[name][snapshot.valid], marked(images, width) / 3.0)
    assert snapshot.box[snapshot.valid][:, 0].tolist() == images
    return list(zip(images, snapshot.step[snapshot.valid].tolist(), strict=True))


class QueueAgainstList(RuleBasedStateMachine):
    """Any sequence of pushes: the queue holds what a Python list cut to its last `size` entries holds."""

    @initialize(size=st.integers(1, 9))
    def start(self, size: int) -> None:
        self.queue = Queue(size, WIDTHS)
        self.past: list[tuple[int, int]] = []
        self.pushed = self.steps = 0
        self.snapshots: list[tuple[Snapshot, list[tuple[int, int]]]] = []

    @rule(count=st.integers(1, 12))
    def push(self, count: int) -> None:
        numbers = list(range(self.pushed, self.pushed + count))
        push(self.queue, numbers, self.steps)
        self.past += [(number, self.steps) for number in numbers]
        self.pushed += count
        self.steps += 1

    @rule(chosen=st.lists(st.booleans(), min_size=1, max_size=12))
    def push_some(self, chosen: list[bool]) -> None:
        """Of the batch only the chosen rows are pushed."""
        numbers = list(range(self.pushed, self.pushed + len(chosen)))
        self.queue.push_some(
            {name: marked(numbers, width) for name, width in WIDTHS.items()},
            torch.tensor(chosen),
            image=torch.tensor(numbers),
            box=torch.tensor(numbers, dtype=torch.float32)[:, None] + torch.arange(4),
            step=self.steps,
        )
        self.past += [(number, self.steps) for number, wanted in zip(numbers, chosen, strict=True) if wanted]
        self.pushed += len(chosen)
        self.steps += 1

    @rule()
    def push_exactly_its_size(self) -> None:
        self.push(self.queue.size)

    @rule(count=st.integers(1, 12))
    def look_ahead_then_push(self, count: int) -> None:
        """What `after` says is what `read` says once the batch is pushed, and saying it changes nothing."""
        numbers = list(range(self.pushed, self.pushed + count))
        before = copy.deepcopy(self.queue.state_dict())
        joined = self.queue.after({name: marked(numbers, width) for name, width in WIDTHS.items()})
        assert all(torch.equal(before[name], value) for name, value in self.queue.state_dict().items())
        self.push(count)
        snapshot = self.queue.read()
        assert torch.equal(joined.valid, snapshot.valid)
        assert joined.rows.keys() == snapshot.rows.keys()
        assert all(torch.equal(column, snapshot.rows[name]) for name, column in joined.rows.items())

    @rule()
    def look(self) -> None:
        snapshot = self.queue.read()
        self.snapshots.append((snapshot, contents(snapshot)))

    @rule()
    def save_and_load(self) -> None:
        file = io.BytesIO()
        torch.save(self.queue.state_dict(), file)
        file.seek(0)
        self.queue = Queue(self.queue.size, WIDTHS, random_rows=True, seed=3)
        self.queue.load_state_dict(torch.load(file, weights_only=True))

    @invariant()
    def holds_the_last_rows(self) -> None:
        expected = self.past[-self.queue.size :]
        assert sorted(contents(self.queue.read())) == expected
        assert int(self.queue.filled) == len(expected)
        assert 0 <= int(self.queue.pointer) < self.queue.size

    @invariant()
    def reading_never_writes(self) -> None:
        before = copy.deepcopy(self.queue.state_dict())
        self.queue.read()
        assert all(torch.equal(before[name], value) for name, value in self.queue.state_dict().items())

    @invariant()
    def the_oldest_row_is_next(self) -> None:
        if int(self.queue.filled) == self.queue.size:
            assert int(self.queue.image[self.queue.pointer]) == self.past[-self.queue.size][0]

    @invariant()
    def what_was_read_stays(self) -> None:
        for snapshot, seen in self.snapshots:
            assert contents(snapshot) == seen


QueueAgainstList.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestQueueAgainstList = QueueAgainstList.TestCase


def test_a_loss_on_a_snapshot_still_runs_backward_after_the_push() -> None:
    queue = Queue(6, WIDTHS)
    push(queue, list(range(5)), 0)
    query = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    keys = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        seen = queue.read()
        return info_nce(query, keys, seen.rows["projection"], temperature=0.2, valid=seen.valid)

    (expected,) = torch.autograd.grad(loss(), query)
    delayed = loss()
    push(queue, [7, 8, 9], 1)
    (gradient,) = torch.autograd.grad(delayed, query)
    assert torch.equal(gradient, expected)


def test_rows_take_no_gradient_and_are_normalised_in_float32() -> None:
    queue = Queue(4, {"projection": 3})
    rows = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    queue.push(
        {"projection": (5 * rows).bfloat16()}, image=torch.tensor([1, 2]), box=torch.zeros(2, 4).double(), step=0
    )
    stored = queue.read().rows["projection"]
    assert stored.dtype == torch.float32
    assert not stored.requires_grad
    torch.testing.assert_close(stored.norm(dim=1), torch.tensor([1.0, 1, 0, 0]))
    assert list(queue.parameters()) == []


def test_random_start_gives_unit_rows_of_no_image_that_all_count() -> None:
    queue, again, other = (Queue(8, WIDTHS, random_rows=True, seed=seed) for seed in (5, 5, 6))
    snapshot = queue.read()
    assert snapshot.valid.all()
    assert (snapshot.image == -1).all()
    for name, rows in snapshot.rows.items():
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(8))
        assert torch.equal(rows, again.read().rows[name])
        assert not torch.equal(rows, other.read().rows[name])
    push(queue, [0, 1, 2], 4)
    assert queue.read().image.tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    assert queue.read().valid.all()


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Queue(8, WIDTHS, random_rows=True, seed=5).read().rows["feature"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Queue(8, WIDTHS, random_rows=True, seed=5).read().rows["feature"], first)


@settings(max_examples=30)
@given(size=st.integers(1, 9), past=st.integers(0, 20), count=st.integers(1, 12))
def test_the_bank_after_the_push_holds_the_batch_and_the_newest_of_the_past(size: int, past: int, count: int) -> None:
    queue = Queue(size, WIDTHS)
    for number in range(past):
        push(queue, [number], number)
    batch = list(range(past, past + count))
    joined = queue.after({name: marked(batch, width) for name, width in WIDTHS.items()})
    expected = list(range(past + count))[-size:]
    assert int(joined.valid.sum()) == len(expected)
    for name, width in WIDTHS.items():
        found = sorted(joined.rows[name][joined.valid].tolist())
        torch.testing.assert_close(found, sorted((marked(expected, width) / 3.0).tolist()), rtol=1e-5, atol=1e-6)


def test_looking_ahead_gives_float32_unit_rows_without_gradient() -> None:
    queue = Queue(4, {"projection": 3})
    rows = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    joined = queue.after({"projection": (5 * rows).bfloat16()})
    assert joined.rows["projection"].dtype == torch.float32
    assert not joined.rows["projection"].requires_grad
    torch.testing.assert_close(joined.rows["projection"].norm(dim=1), joined.valid.float())


@settings(max_examples=40)
@given(choices=st.integers(2, 10**6), share=st.floats(0.0, 3.0), as_tensor=st.booleans())
def test_the_share_of_a_uniform_cross_entropy_is_in_units_of_the_logarithm(
    choices: int, share: float, as_tensor: bool
) -> None:
    loss = torch.tensor(share * math.log(choices), requires_grad=True)
    found = uniform_share(loss, torch.tensor(choices) if as_tensor else choices)
    assert found.item() == pytest.approx(share, rel=1e-5, abs=1e-7)
    assert not found.requires_grad


@pytest.mark.parametrize("choices", [0, 1])
def test_of_no_choice_at_all_the_share_is_finite(choices: int) -> None:
    assert uniform_share(torch.tensor(0.0), torch.tensor(choices)).item() == 0.0


@settings(max_examples=40)
@given(images=st.lists(st.integers(0, 5), max_size=7), queries=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_the_own_image_is_masked_by_its_id(images: list[int], queries: list[int]) -> None:
    queue = Queue(7, WIDTHS)
    if images:
        push(queue, images, 0)
    index = torch.tensor(queries)
    written = [place < len(images) for place in range(7)]
    assert queue.read().usable(index, mask_own=False).tolist() == written
    expected = [[place < len(images) and images[place] != query for place in range(7)] for query in queries]
    assert queue.read().usable(index, mask_own=True).tolist() == expected


def test_the_figures_are_fill_and_mean_age() -> None:
    queue = Queue(8, WIDTHS)
    assert {name: float(value) for name, value in dictionary_figures(queue.read(), 9).items()} == {
        "queue/fill": 0.0,
        "queue/age_steps": 0.0,
    }
    push(queue, [0, 1], 4)
    push(queue, [2], 7)
    figures = dictionary_figures(queue.read(), 9)
    assert float(figures["queue/fill"]) == pytest.approx(3 / 8)
    assert float(figures["queue/age_steps"]) == pytest.approx((5 + 5 + 2) / 3)
    half_random = Queue(4, WIDTHS, random_rows=True)
    push(half_random, [0], 8)
    assert float(dictionary_figures(half_random.read(), 9)["queue/age_steps"]) == 1.0  # a random row has no age
    assert float(dictionary_figures(half_random.read(), 9)["queue/fill"]) == 1.0


@given(
    paper=st.integers(1, 70_000),
    images=st.integers(1, 2_000_000),
    written=st.integers(1, 2048),
    asked=st.none() | st.integers(1, 100_000),
)
def test_the_length_is_the_papers_or_a_tenth_of_the_data_and_every_departure_is_said(
    paper: int, images: int, written: int, asked: int | None
) -> None:
    assume(paper > written and (asked is None or asked > written))
    size, notes = resolve_dictionary_size(asked, paper=paper, images=images, written=written)
    text = " ".join(notes)
    assert ("longer than the data" in text) == (size > images)
    if asked is not None:
        assert size == asked
        assert len(notes) == (size > images)
        return
    assert size <= paper
    assert (f"instead of the paper's {paper}" in text) == (size != paper)
    if size < paper:
        assert size >= 2 * written
        assert size <= images / 10 or size == 2 * written
    assert resolve_dictionary_size(size, paper=paper, images=images, written=written)[0] == size
    assert all("method.dictionary_size" in note for note in notes)


@pytest.mark.parametrize("asked", [8, 1, 0, -1])
def test_a_dictionary_no_longer_than_what_a_step_writes_is_refused(asked: int) -> None:
    message = rf"^method\.dictionary_size: {asked} must be larger than the 8 keys that a step writes"
    with pytest.raises(UserError, match=f"{message}$"):
        resolve_dictionary_size(asked, paper=64, images=100, written=8)
    if asked == 0:
        assert resolve_dictionary_size(0, paper=64, images=100, written=8, may_be_none=True) == (0, [])
    else:
        with pytest.raises(UserError, match=f"{message}, or 0$"):
            resolve_dictionary_size(asked, paper=64, images=100, written=8, may_be_none=True)


@pytest.mark.parametrize("paper", [8, 3])
def test_a_batch_as_long_as_the_papers_dictionary_needs_another_one_and_it_is_said(paper: int) -> None:
    """What nobody asked for is no reason to refuse a run."""
    size, notes = resolve_dictionary_size(None, paper=paper, images=10**6, written=8)
    assert size == 16
    assert notes == [
        f"method.dictionary_size is 16: the paper's {paper} rows are no more than the 8 keys that a step writes"
    ]
    size, notes = resolve_dictionary_size(None, paper=paper, images=10**6, written=8, may_be_none=True)
    assert size == 0
    assert notes[0].startswith("there is no queue: ")
