"""UniVIP: its three terms against the formulas, who gets a gradient, BYOL bit for bit, and what it learns."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.geometry import iou
from scenewise.losses import match_instances
from scenewise.methods import Method
from scenewise.methods.univip import UniVIP
from scenewise.sources import open_source
from scenewise.types import Batch, View
from scenewise.views.collate import collate, normalise
from scenewise.views.pipeline import make_views
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, scale_slots

OFF = {"scene_instance_weight": 0.0, "instance_weight": 0.0}
AS_BYOL = OFF | {"regression": "byol"}
PATCHES = ("instances", "target_instances")


class Pixels(nn.Module):
    """In the place of the two networks: the prediction is an image's left pixel, the target its right one."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.mean(dim=(2, 3)), self.factor * images[:, :, 0, 0]

    def target(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 1].detach()


def table(
    first: list[Any], second: list[Any], online: list[Any] | Tensor, target: list[Any] | Tensor, **settings: Any
) -> tuple[Method, Batch]:
    """Return UniVIP on `Pixels`, and the batch of one image, or more, with these embeddings.

    first, second: (prediction, target) of the scenes, (D,) or (B, D) each; online, target: (K, D) or (B, K, D).
    """
    sides = [torch.as_tensor(side).double() for side in (*first, *second)]
    scenes = [side if side.dim() == 2 else side[None] for side in sides]
    groups = [torch.as_tensor(side).double() for side in (online, target)]
    patches = [group if group.dim() == 3 else group[None] for group in groups]
    count, width = scenes[0].shape
    config = UniVIP.Config(width=width, instances=patches[0].shape[1], **settings)
    method = UniVIP(config, nn.Identity(), 3).double()
    method.core = Pixels()
    blank = torch.zeros_like(patches[0])
    views = {
        "first": torch.stack(scenes[:2], dim=-1)[None, :, :, None],  # (1, B, D, 1, 2)
        "second": torch.stack(scenes[2:], dim=-1)[None, :, :, None],
        "instances": torch.stack([patches[0], blank], dim=-1)[..., None, :].transpose(0, 1),  # (K, B, D, 1, 2)
        "target_instances": torch.stack([blank, patches[1]], dim=-1)[..., None, :].transpose(0, 1),
    }
    return method, Batch(index=torch.arange(count), views=views, boxes={})


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def drawn(count: int, instances: int = 3, width: int = 4, **settings: Any) -> tuple[Method, Batch]:
    """Return UniVIP on `Pixels` and a batch of random embeddings."""
    scenes = [draw(seed, count, width) for seed in range(4)]
    return table(scenes[:2], scenes[2:], draw(5, count, instances, width), draw(6, count, instances, width), **settings)


# --- the three terms ------------------------------------------------------------------------------------------------


def test_the_hand_examples_of_the_terms(lab) -> None:
    online, target = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]
    method, batch = table([[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [3.0, 4.0]], online, target)
    assert method.step(batch, lab.progress(0)).terms["scene"].item() == pytest.approx(-1.3071067812, abs=1e-9)

    method, batch = table([[1.0, 0.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 3.0]], online, target)
    method.instance_linear.weight.data = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]]).double()
    method.instance_linear.bias.data = torch.tensor([0.0, 0.5]).double()
    assert method.step(batch, lab.progress(0)).terms["scene_instance"].item() == pytest.approx(-1.5130625524, abs=1e-9)

    method, batch = table([[1.0, 1.0], [2.0, 1.0]], [[1.0, 1.0], [2.0, 1.0]], online, target)
    assert method.step(batch, lab.progress(0)).terms["instance"].item() == pytest.approx(-0.8047227229, abs=1e-9)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def slow_terms(method: Method, online: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return the terms of embeddings (B, 2 + K, D), the scenes in front, image by image and pair by pair."""
    config: Any = method.config
    byol, unit_length = config.regression == "byol", config.marginal_features == "l2"
    found = {"scene": 0.0, "scene_instance": 0.0, "instance": 0.0}

    def scaled(value: float) -> float:
        return (2 + 2 * value if byol else value) / len(online)

    def weighed(vector: np.ndarray) -> np.ndarray:
        return vector / np.linalg.norm(vector) if unit_length else vector

    for (fo1, fo2, *o), (ft1, ft2, *t) in zip(online, target, strict=True):
        count = len(o)
        found["scene"] += scaled(-cosine(fo1, ft2)) + scaled(-cosine(fo2, ft1))
        if config.instance_head == "mean":
            scene = sum(o) / count
        else:
            weight, bias = (value.detach().double().numpy() for value in method.instance_linear.parameters())
            blocks = np.split(weight, count, axis=1)
            scene = bias + sum(block @ patch for block, patch in zip(blocks, o, strict=True))
        found["scene_instance"] += scaled(-cosine(scene, ft1)) + scaled(-cosine(scene, ft2))
        rows = np.array([max(0.0, weighed(patch) @ (weighed(ft1) + weighed(ft2)) / 2) for patch in o])
        columns = np.array([max(0.0, weighed(patch) @ (weighed(fo1) + weighed(fo2)) / 2) for patch in t])
        rows, mass = rows / rows.sum() if rows.sum() else np.full(count, 1 / count), columns.sum()
        columns = columns / mass if mass else np.full(count, 1 / count)
        plan = np.array([[np.exp((cosine(a, b) - 1) / config.epsilon) for b in t] for a in o])
        for _ in range(config.iterations):
            for m in range(count):
                plan[m] *= rows[m] / plan[m].sum() if rows[m] else 0.0
            for n in range(count):
                plan[:, n] *= columns[n] / plan[:, n].sum() if columns[n] else 0.0
        plan *= mass if config.marginal_norm == "none" else 1.0
        pulls = [plan[m, n] * cosine(o[m], t[n]) for m, n in itertools.product(range(count), repeat=2)]
        found["instance"] += scaled(-sum(pulls))
    return found


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"regression": "byol", "instance_aug": "shared", "scene_instance_weight": 0.5, "instance_weight": 2.0},
        {"instance_head": "mean", "marginal_features": "l2", "instances": 3, "epsilon": 0.5, "iterations": 5},
        {"marginal_norm": "none", "instances": 1},
    ],
)
def test_the_loss_is_the_formula(lab, norm: str, settings: dict[str, Any]) -> None:
    method = lab.trained("univip", norm=norm, momentum=0.5, **settings)
    batch = lab.batch(method, 3)
    output = method.step(batch, lab.progress(3))
    config: Any = method.config
    patches = [batch.views[name] for name in PATCHES if name in batch.views]
    with torch.no_grad():  # each scene alone, the objects together: their batch statistics are their own
        scenes = [batch.views[name][0] for name in ("first", "second")]
        online = [method.core.predict(view)[1] for view in scenes]
        online += method.core.predict(torch.cat(list(patches[0])))[1].split(8)
        target = [method.core.teacher(view)[1] for view in scenes]
        target += method.core.teacher(torch.cat(list(patches[-1])))[1].split(8)
    embeddings = [torch.stack(side, dim=1).double().numpy() for side in (online, target)]
    expected = slow_terms(method, *embeddings)
    assert output.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert output.terms[name].item() == pytest.approx(value, rel=1e-4, abs=1e-5), name
    total = expected["scene"] + config.scene_instance_weight * expected["scene_instance"]
    assert output.loss.item() == pytest.approx(total + config.instance_weight * expected["instance"], rel=1e-4)
    torch.testing.assert_close(output.shared, torch.stack(online, dim=1))
    torch.testing.assert_close(output.embeddings, online[0])
    torch.testing.assert_close(output.targets, target[1])


def test_the_terms_are_within_their_ends(lab) -> None:
    method, batch = drawn(6)
    terms = method.step(batch, lab.progress(0)).terms
    assert all(-end <= terms[name] <= end for name, end in (("scene", 2), ("scene_instance", 2), ("instance", 1)))
    squared, batch = drawn(6, regression="byol")
    squared.load_state_dict(method.state_dict())
    doubled = squared.step(batch, lab.progress(0)).terms
    for name, cosines in (("scene", 2), ("scene_instance", 2), ("instance", 1)):
        torch.testing.assert_close(doubled[name], 2 * cosines + 2 * terms[name])


def test_the_views_may_be_exchanged_and_lengths_do_not_matter(lab) -> None:
    method, batch = drawn(6, marginal_features="l2")
    terms = method.step(batch, lab.progress(0)).terms
    turned = dataclasses.replace(
        batch, views=batch.views | {"first": batch.views["second"], "second": batch.views["first"]}
    )
    longer = dataclasses.replace(
        batch, views=batch.views | {name: 3 * batch.views[name] for name in ("first", PATCHES[1])}
    )
    for other in (turned, longer):
        torch.testing.assert_close(method.step(other, lab.progress(0)).terms, terms)


def test_a_block_of_the_linear_layer_belongs_to_each_object(lab) -> None:
    method, batch = drawn(5)
    alone, _ = table([draw(0, 5, 4)] * 2, [draw(0, 5, 4)] * 2, draw(5, 5, 1, 4), draw(6, 5, 1, 4))
    alone.instance_linear.weight.data = torch.eye(4).double()
    alone.instance_linear.bias.data.zero_()
    method.instance_linear.bias.data.zero_()
    for number in range(3):
        method.instance_linear.weight.data = torch.zeros(4, 12).double()
        method.instance_linear.weight.data[:, 4 * number : 4 * number + 4] = torch.eye(4)
        views = batch.views | {name: batch.views[name][number : number + 1] for name in PATCHES}
        expected = alone.step(dataclasses.replace(batch, views=views), lab.progress(0)).terms["scene_instance"]
        torch.testing.assert_close(method.step(batch, lab.progress(0)).terms["scene_instance"], expected)


def test_images_and_objects_keep_apart_and_in_order(lab) -> None:
    method, batch = drawn(5)
    shared = method.step(batch, lab.progress(0)).shared
    torch.testing.assert_close(shared[:, 2:], draw(5, 5, 3, 4))  # (B, K, D) as they were given
    changed = {name: view.clone() for name, view in batch.views.items()}
    for name in PATCHES:
        changed[name][:, 0] += 1.0  # all objects of image 0
    rest = slice(1, None)
    losses = []
    for views in (batch.views, changed):
        part = {name: view[:, rest] for name, view in views.items()}
        losses.append(
            method.step(dataclasses.replace(batch, index=batch.index[rest], views=part), lab.progress(0)).loss
        )
    assert torch.equal(*losses)
    whole = method.step(dataclasses.replace(batch, views=changed), lab.progress(0))
    torch.testing.assert_close(whole.shared[rest], shared[rest])
    assert not torch.allclose(whole.loss, method.step(batch, lab.progress(0)).loss)


def test_the_order_of_an_images_objects_does_not_matter_to_the_transport(lab) -> None:
    method, batch = drawn(5, instance_head="mean")
    turned = {name: batch.views[name][[2, 0, 1]] for name in PATCHES}
    found = [method.step(dataclasses.replace(batch, views=views), lab.progress(0)) for views in (
        batch.views, batch.views | turned,
    )]  # fmt: skip
    torch.testing.assert_close(found[1].terms, found[0].terms)
    torch.testing.assert_close(found[1].metrics, found[0].metrics)


def test_the_transport_can_be_looked_at(lab) -> None:
    method, batch = drawn(5)
    matching = method.match(batch)
    assert matching.plan.shape == (5, 3, 3) and not matching.plan.requires_grad
    output = method.step(batch, lab.progress(0))
    torch.testing.assert_close(matching.diagonal, output.metrics["transport/diagonal"])
    expected = -(matching.plan * torch.nn.functional.cosine_similarity(
        draw(5, 5, 3, 4)[:, :, None], draw(6, 5, 3, 4)[:, None], dim=3
    )).sum(dim=(1, 2)).mean()  # fmt: skip
    torch.testing.assert_close(output.terms["instance"], expected)


def test_one_object_is_matched_with_itself(lab) -> None:
    method, batch = drawn(5, instances=1)
    output = method.step(batch, lab.progress(0))
    cosines = torch.nn.functional.cosine_similarity(draw(5, 5, 4), draw(6, 5, 4))
    torch.testing.assert_close(output.terms["instance"], -cosines.mean())
    assert output.metrics["transport/diagonal"].item() == pytest.approx(1.0)


def test_embeddings_without_length_give_a_finite_loss_and_gradient(lab) -> None:
    method, batch = drawn(3)
    empty = dataclasses.replace(batch, views={name: torch.zeros_like(view) for name, view in batch.views.items()})
    output = method.step(empty, lab.progress(0))
    output.loss.backward()
    assert output.loss.isfinite() and output.metrics["transport/uniform_share"] == 1
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


# --- gradients ------------------------------------------------------------------------------------------------------


def test_each_term_pulls_what_it_should(lab) -> None:
    """Scenes only; the objects and the linear layer; the objects alone, with the plan held fixed."""
    method = lab.trained("univip")
    output = method.step(lab.batch(method, 3), lab.progress(3))
    for name, (scenes, instances, linear) in {
        "scene": (True, False, False),
        "scene_instance": (False, True, True),
        "instance": (False, True, False),
    }.items():
        leaves = [output.shared, method.instance_linear.weight, method.instance_linear.bias]
        found = torch.autograd.grad(
            output.terms[name], leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert [bool(found[0][:, :2].any()), bool(found[0][:, 2:].any())] == [scenes, instances], name
        assert [bool(value.any()) for value in found[1:]] == [linear, linear], name


def test_the_gradient_of_the_objects_goes_past_the_plan(lab) -> None:
    """d L_instance / d o_m = -(1/B) sum_n y_mn (t_n - cos o_m) / |o_m| of unit vectors, the plan as it stands."""
    method, batch = drawn(3)
    output = method.step(batch, lab.progress(0))
    (gradient,) = torch.autograd.grad(output.terms["instance"], output.shared)
    online, target = draw(5, 3, 3, 4).numpy(), draw(6, 3, 3, 4).numpy()
    scenes = [torch.stack([draw(seed, 3, 4), draw(seed + 2, 3, 4)], dim=1) for seed in (0, 1)]
    plan = match_instances(draw(5, 3, 3, 4), draw(6, 3, 3, 4), *scenes).plan.numpy()
    expected = np.zeros((3, 3, 4))
    for b, m, n in itertools.product(range(3), repeat=3):
        length, similarity = np.linalg.norm(online[b, m]), cosine(online[b, m], target[b, n])
        pull = target[b, n] / np.linalg.norm(target[b, n]) - similarity * online[b, m] / length
        expected[b, m] -= plan[b, m, n] * pull / length / 3
    np.testing.assert_allclose(gradient[:, 2:], expected, atol=1e-12)


# --- BYOL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_without_the_extra_terms_it_is_byol_bit_for_bit(lab, norm: str) -> None:
    """Losses, weights, teachers and batch statistics of several steps, from the same seed on the same views."""
    ours, byol = lab.method("univip", norm=norm, **AS_BYOL), lab.method("byol", norm=norm)
    losses = [lab.run(method, range(5)) for method in (ours, byol)]
    assert all(torch.equal(*pair) for pair in zip(*losses, strict=True))
    assert ours.state_dict().keys() == byol.state_dict().keys()
    assert all(torch.equal(value, byol.state_dict()[key]) for key, value in ours.state_dict().items())
    other = lab.method("univip", norm=norm, **AS_BYOL | {"regression": "neg_cosine"})
    assert not torch.equal(lab.run(other, range(5))[4], losses[1][4])  # the comparison can fail


def test_its_networks_start_as_byols_with_the_extra_terms_too(lab) -> None:
    ours, byol = lab.method("univip").state_dict(), lab.method("byol").state_dict()
    assert ours.keys() - byol.keys() == {"instance_linear.weight", "instance_linear.bias"}
    assert all(torch.equal(ours[key], value) for key, value in byol.items())


def photos(method: Method, numbers: range) -> Batch:
    """Return generated scenes as the method sees them at 32 pixels: regions, decoding, views, colours."""
    source = open_source("synthetic:16")
    slots = scale_slots(method.slots(method.config), 32)
    batch = collate(
        [
            (n, *make_views(source[n], policy=Scene(), slots=slots, seed=0, epoch=0, proposals=source.boxes(n)[0]))
            for n in numbers
        ]
    )
    return dataclasses.replace(batch, views={name: normalise(view) for name, view in batch.views.items()})


def test_from_photo_to_weights_it_is_byol_bit_for_bit(lab) -> None:
    records = []
    for name, settings in (("univip", AS_BYOL), ("byol", {})):
        backbone = create_backbone("test_resnet", seed=0)
        method = lab.method(name, backbone=backbone, features=backbone.width, hidden=16, width=8, **settings)
        optimiser = lab.optimiser(method)
        losses = []
        for step in range(3):
            output = method.step(photos(method, range(4 * step, 4 * step + 4)), lab.progress(step))
            optimiser.zero_grad()
            output.loss.backward()
            optimiser.step()
            method.after_update(lab.progress(step))
            losses.append(output.loss.detach())
        records.append((losses, method.state_dict()))
    (losses, state), (expected, weights) = records
    assert all(torch.equal(*pair) for pair in zip(losses, expected, strict=True))
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())


# --- views ----------------------------------------------------------------------------------------------------------


def test_what_it_asks_for_and_what_that_costs() -> None:
    def asked(**settings: Any) -> tuple[set[str], float]:
        config = UniVIP.Config(**settings)
        return set(UniVIP.slots(config)), UniVIP.passes(config)

    scenes, area = {"first", "second"}, (96 / 224) ** 2
    assert asked() == (scenes | set(PATCHES), pytest.approx(8 + 16 * area))
    assert asked()[1] / 8 == pytest.approx(1.37, abs=0.005)  # in multiply-adds
    assert asked(instances=8)[1] / 8 == pytest.approx(1.74, abs=0.01)
    assert asked(instance_aug="shared") == (scenes | {"instances"}, pytest.approx(8 + 16 * area))
    assert asked(instance_weight=0.0) == (scenes | {"instances"}, pytest.approx(8 + 12 * area))
    assert asked(scene_instance_weight=0.0) == (scenes | set(PATCHES), pytest.approx(8 + 16 * area))
    assert asked(**OFF) == (scenes, 8.0)
    slots = UniVIP.slots(UniVIP.Config(instances=3))
    assert slots["first"] == Slot(augmentation="byol-first") and slots["second"] == Slot(augmentation="byol-second")
    patch = {"size": 96, "count": 3, "instance": True}
    assert slots["instances"] == Slot(augmentation="byol-first", **patch)
    assert slots["target_instances"] == Slot(augmentation="byol-second", **patch)


def test_a_term_that_is_off_is_not_computed(lab) -> None:
    for settings, terms, passes in (
        (OFF, ["scene"], (2, 2)),
        ({"scene_instance_weight": 0.0}, ["scene", "instance"], (3, 3)),
        ({"instance_weight": 0.0}, ["scene", "scene_instance"], (3, 2)),
        ({"instance_head": "mean"}, ["scene", "scene_instance", "instance"], (3, 3)),
    ):
        method = lab.method("univip", norm="batch", **settings)
        output = method.step(lab.batch(method, 0), lab.progress(0))
        assert list(output.terms) == terms
        assert ("transport/diagonal" in output.metrics) == ("instance" in terms)
        assert (method.instance_linear is None) == ("scene_instance" not in terms or "instance_head" in settings)
        counts = [part.layers[1].num_batches_tracked for part in (method.backbone, method.core.teacher.backbone)]
        assert tuple(map(int, counts)) == passes
        output.loss.backward()
        assert all(value.grad is not None for value in method.parameters() if value.requires_grad)


def test_the_objects_do_not_touch_the_scenes_batch_statistics(lab) -> None:
    predictions = []
    for factor in (1.0, 7.0):
        method = lab.method("univip", norm="batch")
        batch = lab.batch(method, 0)
        views = batch.views | {name: factor * batch.views[name] + factor for name in PATCHES}
        predictions.append(method.step(dataclasses.replace(batch, views=views), lab.progress(0)).shared[:, :2])
    assert torch.equal(*predictions)


def test_a_shared_picture_is_the_same_for_both_networks(lab) -> None:
    """Two equal networks then tell every object from the others: what independent augmentation is for."""
    diagonals = []
    for augmentation in ("shared", "independent"):
        method = lab.method("univip", instance_aug=augmentation, marginal_features="l2")
        method.core.predictor = nn.Identity()
        diagonals.append(method.step(lab.batch(method, 0), lab.progress(0)).metrics["transport/diagonal"].item())
    assert diagonals[0] > diagonals[1]


def test_both_networks_look_at_the_same_objects(lab) -> None:
    batch = photos(lab.method("univip"), range(8))
    online, target = (batch.boxes[name] for name in PATCHES)
    assert torch.equal(online, target)
    assert online.shape == (4, 8, 4) and (batch.kinds["instances"] == View.INSTANCE).all()
    source = open_source("synthetic:16")
    labelled = [torch.from_numpy(source.boxes(number)[0]) for number in range(8)]
    first = [iou(online[0, number][None], boxes).max() for number, boxes in enumerate(labelled)]
    assert sum(overlap > 0.99 for overlap in first) >= 6  # boxes large enough; random ones stand in elsewhere
    assert not torch.equal(*(batch.views[name] for name in PATCHES)), "augmented apart"


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "momentum"), [(0, 0.99), (50, 0.995), (100, 1.0)])
def test_the_teacher_follows_the_encoder_by_the_published_momentum(lab, step: int, momentum: float) -> None:
    method = lab.method("univip")  # of 100 steps
    for parameter in method.core.encoder.parameters():
        parameter.data += 1.0
    before = [parameter.clone() for parameter in method.core.teacher.parameters()]
    method.after_update(lab.progress(step))
    for old, new, online in zip(
        before, method.core.teacher.parameters(), method.core.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * online.detach())


def toy(number: int, count: int = 24) -> Batch:
    """Return scenes of four noisy tiles of random colour, shown twice, and the tiles as objects, shown to each."""
    generator = torch.Generator().manual_seed(number)
    colours = 1.5 * torch.randn(4, count, 3, 1, 1, generator=generator)  # (K, B, 3, 1, 1)

    def noisy(images: Tensor) -> Tensor:
        return images + 0.5 * torch.randn(images.shape, generator=generator)

    tiles = colours.expand(-1, -1, -1, 14, 14)
    scene = torch.cat([torch.cat([tiles[0], tiles[1]], dim=3), torch.cat([tiles[2], tiles[3]], dim=3)], dim=2)[None]
    views = {"first": noisy(scene), "second": noisy(scene), "instances": noisy(tiles), "target_instances": noisy(tiles)}
    return Batch(index=torch.arange(count), views=views, boxes={})


def test_on_scenes_of_four_tiles_every_term_falls_and_the_objects_are_told_apart(lab) -> None:
    method = lab.method("univip", norm="batch", momentum=0.9, hidden=64, width=16)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    history = []
    for number in range(40):
        output = method.step(toy(number), lab.progress(0))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(lab.progress(0))
        assert output.loss.isfinite()
        spread = nn.functional.normalize(output.features.detach()).std(dim=0).mean() * output.features.shape[1] ** 0.5
        history.append({**output.terms, **output.metrics, "spread": spread})
    start, end = (
        {
            name: float(np.mean([float(torch.as_tensor(record[name]).detach()) for record in part]))
            for name in history[0]
        }
        for part in (history[:5], history[-5:])
    )
    for name in ("scene", "scene_instance", "instance"):
        assert end[name] < start[name] - 0.1, name
    assert end["spread"] > 0.3
    assert end["transport/diagonal"] > max(0.5, start["transport/diagonal"])
    assert end["transport/row_error"] < 0.02


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_published_settings_are_the_defaults() -> None:
    config = UniVIP.Config()
    assert UniVIP.resolve(config, images=118_287, batch_size=512) == (config, [])
    assert (config.instances, config.epsilon, config.iterations, config.regression) == (4, 0.1, 50, "neg_cosine")
    assert (config.scene_instance_weight, config.instance_weight, config.marginal_norm) == (1, 1, "sum1")
    assert (config.marginal_features, config.instance_aug, config.instance_head) == ("raw", "independent", "linear")
    assert (config.momentum, config.momentum_schedule, config.hidden, config.width) == (0.99, "cosine", 4096, 256)
    assert (UniVIP.crops, UniVIP.batch_statistics) == ("overlap", "run")
    training = UniVIP.training_defaults
    assert (training.optimiser, training.lr, training.weight_decay, training.warmup_epochs) == ("sgd", 0.2, 1e-4, 4)
    assert not training.exclude_norm_and_bias
    with torch.device("meta"):
        method = UniVIP(config, nn.Identity(), 2048)
    assert method.instance_linear.weight.shape == (256, 1024) and method.instance_linear.bias is not None


def test_settings_that_cannot_work_are_refused_together() -> None:
    with pytest.raises(UserError) as caught:
        UniVIP.Config(instances=0, scene_instance_weight=-1.0, instance_weight=float("nan"))
    assert caught.value.problems == (
        "method.instances: 0 must be 1 to 64",
        "method.scene_instance_weight: -1.0 must be 0 or more",
        "method.instance_weight: nan must be a finite number",
    )
