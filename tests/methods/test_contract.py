"""What every method promises; a new file in the folder of methods is under it without a line here."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import io

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.methods import Method, method_class, method_names
from scenewise.parts.batchnorm import group_batchnorm
from scenewise.parts.queue import Queue
from scenewise.sources import open_source
from scenewise.types import Batch
from scenewise.views.collate import collate, normalise
from scenewise.views.pipeline import make_views
from scenewise.views.policies import POLICIES, policy_class
from scenewise.views.slots import REFERENCE_SIZE, scale_slots

pytestmark = pytest.mark.parametrize("name", method_names())


def frozen(method: Method) -> dict[str, Tensor]:
    """Return the teachers' parameters: those that no optimiser moves."""
    return {name: value for name, value in method.named_parameters() if not value.requires_grad}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def fields(method: Method) -> set[str]:
    return {field.name for field in dataclasses.fields(method.config)}


def test_the_class_says_what_it_is(name: str) -> None:
    module, kind = importlib.import_module(f"scenewise.methods.{name}"), method_class(name)
    assert kind.__mro__[1] is Method, "final, and nothing between it and Method"
    assert module.__doc__
    assert "Paper:" in module.__doc__
    assert "Slots:" in module.__doc__
    assert kind.title
    assert "\n" not in kind.title
    assert kind.paper.startswith("arXiv ")
    assert all(slot.count >= 1 and slot.size <= REFERENCE_SIZE for slot in kind.slots(kind.Config()).values())
    assert kind.training_defaults.origin
    assert kind.training_defaults.lr > 0
    config = kind.Config()  # every setting has a default
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3


def test_a_decided_configuration_stays_as_it_is(lab, name: str) -> None:
    kind = method_class(name)
    decided, _ = kind.resolve(kind.Config(), images=300, batch_size=8)
    again, notes = kind.resolve(decided, images=300, batch_size=8)
    assert again == decided
    assert not [note for note in notes if "instead of" in note], "nothing is left to decide"
    assert None not in [value for key, value in dataclasses.asdict(decided).items() if key == "dictionary_size"]


def test_every_trainable_parameter_gets_a_gradient_and_nothing_else_does(lab, name: str) -> None:
    method = lab.trained(name)
    method.zero_grad()
    output = method.step(lab.batch(method, 3), lab.progress(3))
    output.loss.backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key
        else:
            assert parameter.grad is None, key
    for key, buffer in method.named_buffers():
        assert not buffer.requires_grad, key
    assert not output.targets.requires_grad


def test_the_step_returns_what_the_record_says(lab, name: str) -> None:
    method = lab.trained(name)
    output = method.step(lab.batch(method, 3), lab.progress(3))
    assert output.loss.shape == ()
    assert output.loss.dtype == torch.float32
    assert output.embeddings.shape == output.targets.shape
    assert output.features.shape == (len(output.embeddings), 16)
    assert output.terms
    for key, term in output.terms.items():
        assert term.shape == (), key
        assert term.isfinite(), key
    shared = output.embeddings if output.shared is None else output.shared
    reaching = [
        torch.autograd.grad(term, shared, retain_graph=True, allow_unused=True)[0]
        for term in output.terms.values()
        if term.requires_grad
    ]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in reaching)
    assert all(not torch.as_tensor(value).requires_grad for value in output.metrics.values())


def test_the_first_step_on_empty_dictionaries_is_finite(lab, name: str) -> None:
    method = lab.method(name)
    output = method.step(lab.batch(method, 0), lab.progress(0))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_the_loss_falls_on_two_repeated_batches_with_fixed_dictionaries_and_teachers(lab, name: str) -> None:
    # minus a cosine does not end at 0, the squared distance of the same vectors does
    squared = {"regression": "byol"} if "regression" in fields(lab.method(name)) else {}
    method = lab.trained(name, **squared)
    kept = [(queue, lab.state(queue)) for queue in lab.queues(method)]
    optimiser = lab.optimiser(method, lr=0.02)
    losses = []
    for _ in range(20):
        total = 0.0
        for number in (3, 4):
            output = method.step(lab.batch(method, number), lab.progress(3))
            optimiser.zero_grad()
            output.loss.backward()
            optimiser.step()
            # of soft labels only the divergence can be learnt away, not their own entropy
            total += float(output.metrics.get("relation/kl", output.loss.detach()))
            for queue, state in kept:
                queue.load_state_dict(state)
        losses.append(total)
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) >= -1e-6


def test_same_seed_same_losses_whatever_the_global_generator_does(lab, name: str) -> None:
    first = lab.method(name, norm="grouped")
    losses = lab.run(first, range(4))
    second = lab.method(name, norm="grouped")
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    assert all(torch.equal(one, other) for one, other in zip(lab.run(second, range(4)), losses, strict=True))
    assert torch.equal(torch.get_rng_state(), before), "a step draws from its key, not from the global generator"
    assert same(first.state_dict(), second.state_dict())
    assert not torch.equal(lab.run(lab.method(name, norm="grouped", seed=1), range(4))[-1], losses[-1])


def test_keys_just_pushed_are_no_negatives_of_their_step_but_of_the_next(
    lab, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing, silent = lab.trained(name), lab.trained(name)
    if not lab.queues(pushing):
        pytest.skip("keeps no dictionary")
    batch, before = lab.batch(pushing, 3), [queue.read() for queue in lab.queues(pushing)]
    with_push = pushing.step(batch, lab.progress(3)).loss
    with monkeypatch.context() as patch:
        patch.setattr(Queue, "become", lambda self, joined, *, image, box, step: None)  # all writing is there
        without_push = silent.step(batch, lab.progress(3)).loss
    assert torch.equal(with_push, without_push)
    for queue, old in zip(lab.queues(pushing), before, strict=True):
        new = queue.read()
        written = new.step == 3
        assert written.sum() == len(batch.index)
        assert sorted(new.image[written].tolist()) == batch.index.tolist()
        assert all(torch.equal(rows[~written], old.rows[key][~written]) for key, rows in new.rows.items())
        assert not torch.isin(old.image, batch.index).any()
    following = [method.step(lab.batch(method, 4), lab.progress(4)).loss for method in (pushing, silent)]
    assert not torch.equal(*following)


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(lab, name: str) -> None:
    straight, stopped = (lab.method(name, norm="grouped") for _ in range(2))
    expected = lab.run(straight, range(7))
    optimiser = lab.optimiser(stopped)
    lab.run(stopped, range(3), optimiser=optimiser)
    file = io.BytesIO()
    torch.save({"method": stopped.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = lab.method(name, norm="grouped", seed=99)
    resumed.load_state_dict(saved["method"])
    again = lab.optimiser(resumed)
    again.load_state_dict(saved["optimiser"])
    losses = lab.run(resumed, range(3, 7), optimiser=again)
    assert all(torch.equal(one, other) for one, other in zip(losses, expected[3:], strict=True))
    assert same(resumed.state_dict(), straight.state_dict())


def test_bf16_autocast_works_and_stays_near_float32(lab, name: str) -> None:
    exact, half = lab.trained(name), lab.trained(name)
    batch = lab.batch(exact, 3)
    expected = exact.step(batch, lab.progress(3))
    with torch.autocast("cpu", torch.bfloat16):
        output = half.step(batch, lab.progress(3))
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.03, atol=0.01)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.requires_grad)
    assert all(value.dtype != torch.bfloat16 for value in half.state_dict().values())


def test_what_is_gathered_with_gradient_is_in_float32(lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients that come back are summed over the processes, in the type that went out."""
    module = importlib.import_module(f"scenewise.methods.{name}")
    if "gather_with_gradient" not in vars(module):
        pytest.skip("compares no images of the batch")
    types: list[torch.dtype] = []

    def spy(tensor: Tensor) -> Tensor:
        types.append(tensor.dtype)
        return tensor

    method = lab.trained(name)
    monkeypatch.setattr(module, "gather_with_gradient", spy)
    with torch.autocast("cpu", torch.bfloat16):
        method.step(lab.batch(method, 3), lab.progress(3))
    assert set(types) == {torch.float32}


def test_the_teacher_moves_in_after_update_and_nothing_else_does(lab, name: str) -> None:
    method = lab.trained(name)
    if not frozen(method):
        pytest.skip("has no teacher")
    before = copy.deepcopy(frozen(method))
    optimiser = lab.optimiser(method)
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert held.isdisjoint(map(id, frozen(method).values()))
    method.step(lab.batch(method, 3), lab.progress(3)).loss.backward()
    optimiser.step()
    assert same(frozen(method), before)
    rest = {key: value for key, value in lab.state(method).items() if key not in before}
    method.after_update(lab.progress(3))
    moved = frozen(method)
    assert all(not torch.equal(moved[key], value) for key, value in before.items())
    assert same({key: value for key, value in method.state_dict().items() if key not in before}, rest)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_zero_copies_and_one_freezes(lab, name: str, momentum: float) -> None:
    names = {field.name for field in dataclasses.fields(method_class(name).Config)}
    if "momentum" not in names:
        pytest.skip("has no teacher")
    constant = {"momentum_schedule": "constant"} if "momentum_schedule" in names else {}
    settings = dict.fromkeys((field for field in names if field.endswith("momentum")), momentum)
    method = lab.method(name, **settings, **constant)
    start = copy.deepcopy(frozen(method))
    lab.run(method, range(2))
    assert same(frozen(method), start) == (momentum == 1.0)
    online = {key: value for key, value in method.named_parameters() if value.requires_grad}
    followed = [
        any(value.shape == other.shape and torch.equal(value, other) for other in online.values())
        for value in frozen(method).values()
    ]
    assert all(followed) == (momentum == 0.0)


def test_the_passes_are_as_many_as_it_says(lab, name: str) -> None:
    """An image through the encoder costs 1, or 3 when the backward pass returns through it; area counts."""
    method = lab.trained(name)
    costs: list[float] = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        (images,) = inputs
        costs.append(len(images) * (images.shape[-1] / 32) ** 2 * (3 if output.requires_grad else 1))

    for module in method.modules():
        if isinstance(module, type(method.backbone)):
            stem = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
            stem.register_forward_hook(count)
    batch = lab.batch(method, 3, size=32)
    method.step(batch, lab.progress(3))
    assert sum(costs) / len(batch.index) == pytest.approx(method.passes(method.config), rel=0.1)


WAITS = {"s2r2"}  # groups the views by their images' numbers, of which one may be twice in a batch


def test_a_step_never_waits_for_the_device(lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values: to read one (`item`, `if`, boolean masks) would make a GPU's host wait, and raises.

    To copy a constant over (`new_tensor`) would make it wait, too.
    """
    method = lab.trained(name, norm="batch")
    monkeypatch.setattr(Tensor, "new_tensor", None)
    if name in WAITS:
        with pytest.raises(DynamicOutputShapeException):
            lab.step_without_values(method, lab.batch(method, 9), lab.progress(9))
        return
    lab.step_without_values(method, lab.batch(method, 9), lab.progress(9))


def test_the_same_parameters_have_gradients_from_the_first_step_on(lab, name: str) -> None:
    """What a method leaves out for a while has a gradient of zero, not none: a fused optimiser could not start late."""
    waits = {key: getattr(method_class(name).Config(), key) for key in fields(lab.method(name)) if "_epochs" in key}
    method = lab.method(name, **waits)
    found = []
    for number in (0, 99):
        method.zero_grad(set_to_none=True)
        method.step(lab.batch(method, number), lab.progress(number)).loss.backward()
        found.append({key for key, value in method.named_parameters() if value.grad is not None})
    assert found[0] == found[1]


def test_the_backbone_is_the_online_one(lab, name: str) -> None:
    method = lab.method(name)
    parameters = list(method.backbone.parameters())
    assert parameters
    assert all(parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize("crops", POLICIES)
def test_every_region_policy_fills_its_slots(lab, name: str, crops: str) -> None:
    """From generated scenes to a loss: regions, decoding, views, step."""
    method, source = lab.method(name), open_source("synthetic:8")
    slots = scale_slots(method.slots(method.config), 32)
    cut = policy_class(crops)().decide(0.2)
    samples = [
        (index, *make_views(source[index], policy=cut, slots=slots, seed=0, epoch=0, proposals=source.boxes(index)[0]))
        for index in range(8)
    ]
    batch = collate(samples)
    for slot, wanted in slots.items():
        assert batch.views[slot].shape == (wanted.count, 8, 3, wanted.size, wanted.size)
        assert batch.boxes[slot].shape == (wanted.count, 8, 4)
    pixels = {slot: normalise(views) for slot, views in batch.views.items()}
    output = method.step(dataclasses.replace(batch, views=pixels), lab.progress(0))
    output.loss.backward()
    assert output.loss.isfinite()


def test_a_batch_that_lacks_views_is_refused_by_name(lab, name: str) -> None:
    method = lab.method(name)
    batch = lab.batch(method, 0)
    for slot, views in batch.views.items():
        fewer = {**batch.views, slot: views[: len(views) - 1]}
        if name == "s2r2" and len(views) > 2:
            fewer[slot] = views[:1]  # it ranks any number of views from two on, and names the image that has one
        with pytest.raises(UserError, match=slot if name != "s2r2" else "image 0"):
            method.step(dataclasses.replace(batch, views=fewer), lab.progress(0))


def test_labels_cannot_influence_a_step(name: str) -> None:
    """A batch has none: what a source knows of its images stays behind."""
    assert {field.name for field in dataclasses.fields(Batch)} == {
        "index",
        "views",
        "boxes",
        "kinds",
        "figures",
        "photometry",
        "effort",
        "skipped",
    }


def test_memory_format_does_not_matter(lab, name: str) -> None:
    plain, last = lab.trained(name), lab.trained(name)
    last.to(memory_format=torch.channels_last)
    batch = lab.batch(plain, 3)
    turned = dataclasses.replace(
        batch,
        views={
            slot: torch.stack([view.contiguous(memory_format=torch.channels_last) for view in views])
            for slot, views in batch.views.items()
        },
    )
    torch.testing.assert_close(last.step(turned, lab.progress(3)).loss, plain.step(batch, lab.progress(3)).loss)


@pytest.mark.parametrize(("norm", "count", "size"), [("group", 16, 32), ("batch", 8, 48)])
def test_a_real_backbone_takes_steps(lab, name: str, norm: str, count: int, size: int) -> None:
    backbone = create_backbone("resnet18", norm=norm, seed=0)
    if norm == "batch" and method_class(name).batch_statistics == "groups":
        group_batchnorm(backbone, 4)
    method = lab.method(name, backbone=backbone, features=backbone.width)
    optimiser = lab.optimiser(method)
    for number in range(2):
        batch: Batch = lab.batch(method, number, count=count, size=size)
        output = method.step(batch, lab.progress(number))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(lab.progress(number))
        assert output.loss.isfinite()
    assert all(parameter.grad.abs().max() > 0 for parameter in method.backbone.parameters())
    assert output.features.shape == (count, backbone.width)


def test_a_dictionary_that_cannot_work_is_refused_with_its_name(lab, name: str) -> None:
    kind = method_class(name)
    if "dictionary_size" not in {field.name for field in dataclasses.fields(kind.Config)}:
        pytest.skip("keeps no dictionary")
    with pytest.raises(
        UserError, match=r"method\.dictionary_size: 8 must be larger than the 8 keys that a step writes"
    ):
        kind.resolve(kind.Config(dictionary_size=8), images=300, batch_size=8)
