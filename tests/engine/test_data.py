"""From a step number to its images."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.engine.data import Pieces, Schedule, epoch_order


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    world, accumulate = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch = world * accumulate * draw(st.integers(1, 4))
    return Schedule(
        images=draw(st.integers(batch, 5 * batch)),
        batch_size=batch,
        accumulate=accumulate,
        epochs=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 99)),
        world=world,
    )


def of_rank(schedule: Schedule, rank: int) -> Schedule:
    return Schedule(
        images=schedule.images,
        batch_size=schedule.batch_size,
        accumulate=schedule.accumulate,
        epochs=schedule.epochs,
        seed=schedule.seed,
        world=schedule.world,
        rank=rank,
    )


@settings(max_examples=60)
@given(schedules())
def test_the_slices_of_all_ranks_and_parts_are_the_global_batches_in_order(schedule: Schedule) -> None:
    for epoch in range(schedule.epochs):
        order = epoch_order(schedule.seed, epoch, schedule.images)
        assert sorted(order.tolist()) == list(range(schedule.images))
        seen = []
        first = epoch * schedule.steps_per_epoch * schedule.accumulate
        for part in range(first, first + schedule.steps_per_epoch * schedule.accumulate):
            assert schedule.epoch_of(part) == epoch
            seen += [of_rank(schedule, rank).indices(order, part) for rank in range(schedule.world)]
        taken = np.concatenate(seen)
        np.testing.assert_array_equal(taken, order[: schedule.images - schedule.dropped])
    assert (
        schedule.steps * schedule.batch_size + schedule.epochs * schedule.dropped == schedule.epochs * schedule.images
    )


def test_the_order_is_another_in_each_epoch_and_for_each_seed() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    np.testing.assert_array_equal(epoch_order(1, 2, 50), epoch_order(1, 2, 50))


@settings(max_examples=60)
@given(schedules(), st.data())
def test_from_any_part_on_the_pieces_are_those_of_the_whole_run(schedule: Schedule, data: st.DataObject) -> None:
    whole = list(Pieces(schedule, first=0))
    orders = [epoch_order(schedule.seed, epoch, schedule.images) for epoch in range(schedule.epochs)]
    assert len(whole) == len(Pieces(schedule, first=0)) == schedule.steps * schedule.accumulate
    for part, piece in enumerate(whole):
        assert piece.epoch == schedule.epoch_of(part)
        assert piece.images == schedule.indices(orders[piece.epoch], part).tolist()
    first = data.draw(st.integers(0, len(whole)))
    assert list(Pieces(schedule, first=first)) == whole[first:]
