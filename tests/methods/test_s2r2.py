"""S2R2: the ranking of a whole batch against loops; what is a query, a positive, a view; what is refused and said."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenewise.errors import UserError
from scenewise.losses import ranking_average_precision
from scenewise.methods.s2r2 import S2R2
from scenewise.parts.queue import Queue
from scenewise.types import Batch, Progress


def every_view(method: S2R2, batch: Batch) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return (number of the view, image) and the unit embedding of every view, each encoded alone."""
    names, rows = [], []
    views = [view for slot in batch.views.values() for view in slot]
    for number, view in enumerate(views):
        for image, pixels in zip(batch.index.tolist(), view, strict=True):
            with torch.no_grad():
                row = method.encoder(pixels[None])[1][0].double().numpy()
            names.append((number, image))
            rows.append(row / np.linalg.norm(row))
    return names, np.array(rows)


def slow_error(names: list[tuple[int, int]], rows: np.ndarray, query: int, temperature: float | None) -> float:
    """Return one query's 1 - average precision: exact with ties as halves, or with sigmoids of that temperature."""

    def ahead(gap: float) -> float:
        return 0.5 + 0.5 * np.sign(gap) if temperature is None else 1 / (1 + math.exp(-gap / temperature))

    scores = rows @ rows[query]
    others = [item for item in range(len(names)) if item != query]
    positives = [item for item in others if names[item][1] == names[query][1]]
    precision = 0.0
    for i in positives:
        among = 1 + sum(ahead(scores[j] - scores[i]) for j in positives if j != i)
        rank = among + sum(ahead(scores[j] - scores[i]) for j in others if j not in positives)
        precision += among / rank / len(positives)
    return 1 - precision


@settings(max_examples=12)
@given(
    views=st.integers(2, 3),
    small_views=st.integers(0, 2),
    query_views=st.none() | st.integers(1, 2),
    temperature=st.sampled_from([0.01, 0.05, 0.2]),
    count=st.integers(2, 4),
    repeated=st.booleans(),
)
def test_a_step_equals_a_loop_over_queries(lab, count: int, repeated: bool, **choices) -> None:
    """Every view (or the first `query_views` of each image) ranks all others, of whatever size."""
    method = lab.method("s2r2", width=6, **choices)
    batch = lab.batch(method, 3, count=count)
    if repeated:  # one image twice in a batch: all its views are positives
        batch = dataclasses.replace(batch, index=torch.cat([batch.index[:1], batch.index[:-1]]))
    names, rows = every_view(method, batch)
    asked = choices["query_views"] or max(number for number, _ in names) + 1
    queries = [item for item, (number, _) in enumerate(names) if number < asked]
    relaxed = [slow_error(names, rows, query, choices["temperature"]) for query in queries]
    exact = [slow_error(names, rows, query, None) for query in queries]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = method.step(batch, lab.progress(3))
    assert len(queries) == asked * count
    assert output.loss.item() == pytest.approx(np.mean(relaxed), rel=1e-3, abs=1e-5)
    assert output.metrics["ranking/exact_ap"].item() == pytest.approx(1 - np.mean(exact), abs=1e-5)
    share = np.mean([error < 1e-3 for error in relaxed])
    assert output.metrics["ranking/saturated_share"].item() == pytest.approx(share, abs=1.5 / len(queries))
    assert output.terms == {"ranking": output.loss}


def test_the_exact_figure_is_the_losses_and_a_right_ranking_is_saturated(lab) -> None:
    method = lab.method("s2r2", temperature=0.001, views=3)
    batch = lab.batch(method, 0)
    outputs = method.encoder(batch.views["view"].flatten(0, 1))[1]
    found = method.step(batch, lab.progress(0))
    expected = ranking_average_precision(outputs, batch.index.repeat(3))
    torch.testing.assert_close(found.metrics["ranking/exact_ap"], expected)
    alike = batch.views["view"][:1].expand(3, *batch.views["view"].shape[1:])  # an image's views are one
    right = method.step(dataclasses.replace(batch, views={"view": alike}), lab.progress(0))
    assert right.metrics["ranking/exact_ap"].item() == 1.0
    assert right.metrics["ranking/saturated_share"].item() == 1.0
    assert right.loss.item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("relaxation", ["smooth", "hist"])
def test_the_order_of_images_and_of_views_does_not_matter(lab, relaxation: str) -> None:
    method = lab.method("s2r2", relaxation=relaxation)
    batch = lab.batch(method, 0)
    expected = method.step(batch, lab.progress(0)).loss
    images, views = torch.randperm(8, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 3, 1])
    by_image = Batch(batch.index[images], {"view": batch.views["view"][:, images]}, batch.boxes)
    by_view = dataclasses.replace(batch, views={"view": batch.views["view"][views]})
    relabelled = dataclasses.replace(batch, index=1000 - 7 * batch.index)
    for other in (by_image, by_view, relabelled):
        torch.testing.assert_close(method.step(other, lab.progress(0)).loss, expected)
    mixed = batch.views["view"].clone()  # each image's views in an order of its own
    for image in range(8):
        mixed[:, image] = mixed[torch.randperm(4, generator=torch.Generator().manual_seed(image)), image]
    shuffled = dataclasses.replace(batch, views={"view": mixed})
    torch.testing.assert_close(method.step(shuffled, lab.progress(0)).loss, expected)
    strange = batch.views["view"].clone()  # and a view of another image in its place is something else
    strange[0] = strange[0].roll(1, 0)
    changed = method.step(dataclasses.replace(batch, views={"view": strange}), lab.progress(0)).loss
    assert abs(changed.item() - expected.item()) > 1e-3


def test_every_view_gets_a_gradient_though_few_are_queries(lab) -> None:
    method = lab.method("s2r2", query_views=1, small_views=2, temperature=0.1)
    seen: list[Tensor] = []
    method.encoder.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = method.step(lab.batch(method, 0), lab.progress(0))
    large, small = torch.autograd.grad(output.loss, seen, retain_graph=True)
    assert (len(large), len(small)) == (4 * 8, 2 * 8)
    assert (large.abs().sum(dim=1) > 0).all()
    assert (small.abs().sum(dim=1) > 0).all()


def test_views_of_one_size_share_a_pass_and_sizes_do_not(lab) -> None:
    method = lab.method("s2r2", views=2, small_views=3)
    sizes: list[tuple[int, ...]] = []
    method.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    method.step(lab.batch(method, 0, size=64), lab.progress(0))
    assert sizes == [(2 * 8, 3, 64, 64), (3 * 8, 3, 27, 27)]
    slots = S2R2.slots(method.config)
    assert {name: (slot.size, slot.count, slot.scale) for name, slot in slots.items()} == {
        "view": (224, 2, (0.14, 1.0)),
        "small": (96, 3, (0.05, 0.14)),
    }
    assert S2R2.slots(S2R2.Config())["view"].scale is None, "alone they keep the augmentation's range"


def test_small_views_alone_can_be_the_positives(lab) -> None:
    method = lab.method("s2r2", views=1, small_views=1)
    output = method.step(lab.batch(method, 0), lab.progress(0))
    assert output.loss.isfinite()
    assert output.targets.shape == output.embeddings.shape == (8, 128)


def test_the_same_image_twice_is_a_positive_not_a_negative(lab) -> None:
    """Two photos with the same pixels: as one image they are each other's positives, as two they spoil the ranking."""
    method = lab.method("s2r2", views=2, temperature=0.001)
    batch = lab.batch(method, 0)
    views = batch.views["view"].clone()
    views[:, 1] = views[:, 0]
    views[1] = views[0]
    one = torch.tensor([7, 7, 1, 2, 3, 4, 5, 6])
    same = method.step(Batch(one, {"view": views}, batch.boxes), lab.progress(0))
    apart = method.step(dataclasses.replace(batch, views={"view": views}), lab.progress(0))
    assert same.metrics["ranking/exact_ap"].item() == 1.0
    assert apart.metrics["ranking/exact_ap"].item() < 0.95


def test_a_batch_of_one_image_warns_and_teaches_nothing(lab) -> None:
    method = lab.method("s2r2")
    with pytest.warns(UserWarning, match="a batch of one image has no negatives"):
        output = method.step(lab.batch(method, 0, count=1), lab.progress(0))
    assert output.loss.item() == 0.0
    output.loss.backward()
    assert all(not parameter.grad.any() for parameter in method.parameters())


def test_it_keeps_neither_teacher_nor_queue_nor_buffers(lab) -> None:
    method = lab.method("s2r2")
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert not [module for module in method.modules() if isinstance(module, Queue)]
    assert [name for name, _ in method.named_children()] == ["encoder"]
    assert dict(method.named_buffers()) == {}
    before = lab.state(method)
    method.step(lab.batch(method, 0), lab.progress(0))
    method.after_update(lab.progress(0))
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"views": 1}, r"method\.views: 1 is too few: ranking needs at least 2 views of an image"),
        ({"views": 0, "small_views": 3}, r"method\.views: 0 must be 1 to 64"),
        ({"small_views": -1}, r"method\.small_views: -1 must be 0 to 64"),
        ({"query_views": 0}, r"method\.query_views: 0 must be at least 1"),
        ({"query_views": 7, "small_views": 2}, r"method\.query_views: 7 must be at most the 6 views of an image"),
        ({"temperature": 0.0}, r"method\.temperature: 0\.0 must be more than 0"),
        ({"bins": 0}, r"method\.bins: 0 must be at least 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_training(choices: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        S2R2.resolve(S2R2.Config(**choices), images=100, batch_size=8)


def test_the_head_and_the_defaults() -> None:
    config, notes = S2R2.resolve(S2R2.Config(), images=100_000, batch_size=128)
    assert notes == []
    assert (config.views, config.small_views, config.query_views) == (4, 0, None)
    assert (config.relaxation, config.temperature, config.bins, config.width) == ("smooth", 0.05, 10, 128)
    head = S2R2(config, nn.Flatten(), 512).encoder.head  # C -> C -> 128, no norm
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(512, 512), (512,), (128, 512), (128,)]


@pytest.mark.parametrize("relaxation", ["smooth", "hist"])
def test_a_few_dozen_steps_raise_the_exact_precision_on_held_out_scenes(lab, relaxation: str) -> None:
    """A view shows a window of its scene in another light: views only overlap, and brightness has to be ignored."""
    method = lab.method("s2r2", relaxation=relaxation, width=16)
    optimiser = torch.optim.Adam(method.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def batch(step: int) -> Batch:
        tiles = torch.randn(16, 3, 3, 3, generator=generator)
        scenes = nn.functional.interpolate(tiles, size=40)
        views = []
        for _ in range(4):
            corners = torch.randint(0, 9, (16, 2), generator=generator).tolist()
            cut = [scene[:, y : y + 32, x : x + 32] for scene, (y, x) in zip(scenes, corners, strict=True)]
            light = 2.0 * torch.randn(16, 1, 1, 1, generator=generator)
            views.append(torch.stack(cut) + light + 0.3 * torch.randn(16, 3, 32, 32, generator=generator))
        index = torch.arange(16 * step, 16 * step + 16)
        return Batch(index=index, views={"view": torch.stack(views)}, boxes={"view": torch.zeros(4, 16, 4)})

    held_out = batch(1000)

    def precision() -> float:
        with torch.no_grad():
            return method.step(held_out, lab.progress(0)).metrics["ranking/exact_ap"].item()

    before = precision()
    for step in range(60):
        output = method.step(batch(step), Progress(step=step, steps=60, steps_per_epoch=60, seed=0))
        assert output.loss.isfinite()
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(lab.progress(step))
    assert before < 0.3
    assert precision() > before + 0.3
