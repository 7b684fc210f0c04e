"""MSVQ: whole runs against the published order in plain code, routing, queues, ablations, split batch norm."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenewise.backbones import create_backbone
from scenewise.engine.config import OptimiserConfig
from scenewise.engine.optim import learning_rate, peak_learning_rate
from scenewise.errors import UserError
from scenewise.losses import multi_view_queue_loss
from scenewise.methods.msvq import MSVQ
from scenewise.parts.batchnorm import GroupedBatchNorm
from scenewise.types import Batch, Progress

SMALL = {"hidden": 24, "width": 12, "dictionary_size": 20}
VIEWS_OF = {"msvq": (0, 0, 1), "msv": (0, 0), "mq": (0, 1)}  # the teacher of each weak view


def soft_cross_entropy(student: Tensor, teacher: Tensor, queue: Tensor, *, sharp: float) -> Tensor:
    """Return the cross-entropy of two softmaxes over the queue by its definition; nothing for an empty queue."""
    if not len(queue):
        return student.sum() * 0
    lengths = queue.norm(dim=1)
    ours = student @ queue.T / student.norm(dim=1)[:, None] / lengths / 0.1
    theirs = teacher @ queue.T / teacher.norm(dim=1)[:, None] / lengths / sharp
    labels = torch.exp(theirs) / torch.exp(theirs).sum(dim=1, keepdim=True)
    return -(labels * (ours - torch.log(torch.exp(ours).sum(dim=1, keepdim=True)))).sum(dim=1).mean()


def published_run(lab, method: MSVQ, steps: range, *, momenta: tuple[float, float]) -> tuple[list[float], nn.Module]:
    """Train a copy of `method` in the authors' order: teachers, passes, loss on the old queues, enqueue, SGD step.

    The queues are lists of raw keys that keep their last rows.
    """
    student, teachers = copy.deepcopy(method.encoder), [copy.deepcopy(method.encoder) for _ in momenta]
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    queues = [torch.zeros(0, method.config.width) for _ in momenta]
    losses = []
    for number in steps:
        batch = lab.batch(method, number)
        with torch.no_grad():
            for teacher, momentum in zip(teachers, momenta, strict=True):
                for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                    slow.copy_(momentum * slow + (1 - momentum) * fast)
            embedded = [
                teachers[teacher](view)[1]
                for view, teacher in zip(batch.views["weak"], VIEWS_OF[method.config.variant], strict=True)
            ]
        query = student(batch.views["strong"][0])[1]
        terms = [
            soft_cross_entropy(query, keys, queues[teacher], sharp=method.config.teacher_temperature)
            for keys, teacher in zip(embedded, VIEWS_OF[method.config.variant], strict=True)
        ]
        loss = sum(terms) / len(terms)
        for teacher in set(VIEWS_OF[method.config.variant]):
            view = VIEWS_OF[method.config.variant].index(teacher)
            queues[teacher] = torch.cat([queues[teacher], embedded[view]])[-method.config.dictionary_size :]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, student


@pytest.mark.parametrize("variant", ["msvq", "msv", "mq"])
def test_a_run_is_the_published_one(lab, variant: str) -> None:
    """Seven steps of 8 keys into queues of 20 rows: the ring goes round where no batch ends."""
    method = lab.method("msvq", variant=variant, momentum=0.9, second_momentum=0.5, shuffle=False, **SMALL)
    expected, student = published_run(lab, copy.deepcopy(method), range(7), momenta=(0.9, 0.5))
    found = lab.run(method, range(7))
    assert [loss.item() for loss in found] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for ours, theirs in zip(method.encoder.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_loss_is_the_mean_of_the_three_terms_and_that_of_the_losses(lab) -> None:
    method = lab.trained("msvq", **SMALL)
    first, second = (queue.read() for queue in method.queues)
    batch = lab.batch(method, 9)
    output = method.step(batch, lab.progress(9))
    weak = batch.views["weak"]
    with torch.no_grad():
        keys = [method.teachers[0](weak[0])[1], method.teachers[0](weak[1])[1], method.teachers[1](weak[2])[1]]
    expected = multi_view_queue_loss(
        output.embeddings.detach(),
        *keys,
        first.rows["projection"],
        second.rows["projection"],
        valid1=first.valid,
        valid2=second.valid,
    )
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert list(output.terms) == ["relation1", "relation2", "relation3"]
    assert output.loss.item() == pytest.approx(sum(output.terms.values()).item() / 3, rel=1e-6)
    torch.testing.assert_close(output.targets, keys[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["msvq", "msv", "mq"])
def test_each_view_goes_where_the_paper_sends_it(lab, variant: str) -> None:
    """The strong view to the student alone, the weak ones to the teachers alone."""
    method = lab.method("msvq", variant=variant, shuffle=False)
    batch = lab.batch(method, 0)
    seen: list[list[Tensor]] = []
    for network in (method.encoder, *method.teachers):
        calls: list[Tensor] = []
        seen.append(calls)
        network.register_forward_pre_hook(lambda _, inputs, calls=calls: calls.append(inputs[0]))
    method.step(batch, lab.progress(0))
    strong, *weak = batch.views["strong"][0], *batch.views["weak"]
    expected = {"msvq": [[strong], weak[:2], weak[2:]], "msv": [[strong], weak], "mq": [[strong], weak[:1], weak[1:]]}
    for found, wanted in zip(seen, expected[variant], strict=True):
        assert len(found) == len(wanted)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("variant", "weak", "passes"), [("msvq", 3, 6.0), ("msv", 2, 5.0), ("mq", 2, 5.0)])
def test_views_teachers_queues_and_terms_of_the_ablations(lab, variant: str, weak: int, passes: float) -> None:
    method = lab.trained("msvq", variant=variant)
    slots = method.slots(method.config)
    assert {name: (slot.augmentation, slot.count) for name, slot in slots.items()} == {
        "strong": ("moco", 1),
        "weak": ("weak", weak),
    }
    assert MSVQ.passes(method.config) == passes
    assert len(method.teachers) == len(method.queues) == (1 if variant == "msv" else 2)
    assert len(method.step(lab.batch(method, 3), lab.progress(3)).terms) == weak


def test_each_teacher_has_its_own_momentum_and_the_first_step_sees_both_equal_to_the_student(lab) -> None:
    method = lab.method("msvq")
    assert (method.config.momentum, method.config.second_momentum) == (0.996, 0.99)
    start = copy.deepcopy(method.encoder.state_dict())
    optimiser = lab.optimiser(method)
    method.step(lab.batch(method, 0), lab.progress(0)).loss.backward()
    for teacher in method.teachers:  # what the first step saw
        assert all(torch.equal(value, start[key]) for key, value in teacher.state_dict().items())
    optimiser.step()
    method.after_update(lab.progress(0))
    optimiser.zero_grad()
    lab.step(method, optimiser, 1)  # the first with keys to learn from
    online = [parameter.clone() for parameter in method.encoder.parameters()]
    before = [[parameter.clone() for parameter in teacher.parameters()] for teacher in method.teachers]
    method.after_update(lab.progress(1))
    for teacher, old, momentum in zip(method.teachers, before, (0.996, 0.99), strict=True):
        for parameter, was, now in zip(teacher.parameters(), old, online, strict=True):
            torch.testing.assert_close(parameter, momentum * was + (1 - momentum) * now)
    first, second = (list(teacher.parameters()) for teacher in method.teachers)
    assert any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all((a - c).norm() >= (b - c).norm() for a, b, c in zip(first, second, online, strict=True)), "1 is slower"


def crops(lab, method: MSVQ, number: int) -> Batch:
    """Return a batch whose weak boxes tell view and image."""
    batch = lab.batch(method, number)
    for view, boxes in enumerate(batch.boxes["weak"]):
        boxes[:, 0], boxes[:, 1] = float(view), batch.index.float()
    return batch


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("variant", "enqueued"), [("msvq", (0, 2)), ("msv", (0,)), ("mq", (0, 1))])
def test_each_queue_gets_one_views_keys_in_order_all_the_way_round(
    lab, variant: str, enqueued: tuple[int, ...], shuffle: bool
) -> None:
    """Queue 1 the first weak view's (not the second's), queue 2 the last one's, each from its own teacher."""
    method = lab.method("msvq", variant=variant, shuffle=shuffle, **SMALL)
    optimiser = lab.optimiser(method)
    expected: list[list[Tensor | None]] = [[None] * 20 for _ in enqueued]
    for number in range(6):
        batch = crops(lab, method, number)
        for place, (teacher, view) in enumerate(zip(method.teachers, enqueued, strict=True)):
            with torch.no_grad():
                keys = nn.functional.normalize(teacher(batch.views["weak"][view])[1], dim=1)
            for row, key in enumerate(keys):
                expected[place][(8 * number + row) % 20] = torch.cat([batch.boxes["weak"][view][row, :2], key])
        optimiser.zero_grad()
        method.step(batch, lab.progress(number)).loss.backward()
        optimiser.step()
        method.after_update(lab.progress(number))
        for queue, rows in zip(method.queues, expected, strict=True):
            snapshot = queue.read()
            assert int(snapshot.valid.sum()) == min(20, 8 * (number + 1)) == sum(row is not None for row in rows)
            for place, row in enumerate(rows):
                if row is None:
                    continue
                assert snapshot.box[place, :2].tolist() == row[:2].tolist()
                assert int(snapshot.image[place]) == int(row[1])
                torch.testing.assert_close(snapshot.rows["projection"][place], row[2:], rtol=1e-4, atol=1e-5)


def test_teacher_2s_keys_never_reach_queue_1_nor_its_queue_teacher_1s_labels(lab) -> None:
    """Teacher 2 answers one direction only; for some months the authors' code sent that to queue 1."""
    method = lab.method("msvq", second_momentum=1.0, **SMALL)
    direction = nn.functional.normalize(torch.arange(1.0, 13.0), dim=0)
    with torch.no_grad():
        method.teachers[1].head[2].weight.zero_()
        method.teachers[1].head[2].bias.copy_(3 * direction)
    lab.run(method, range(4))
    first, second = (queue.read().rows["projection"] @ direction for queue in method.queues)
    torch.testing.assert_close(second, torch.ones(20))
    assert (first < 0.999).all()
    output = method.step(lab.batch(method, 4), lab.progress(4))
    assert output.terms["relation3"].item() == pytest.approx(math.log(20), rel=1e-5)
    assert abs(output.terms["relation1"].item() - math.log(20)) > 1e-4
    assert abs(output.terms["relation2"].item() - math.log(20)) > 1e-4


def test_every_weak_view_has_a_shuffle_of_its_own_and_comes_back_in_order(lab) -> None:
    method = lab.method("msvq", norm="grouped", **SMALL)
    batch = lab.batch(method, 0)
    same = batch.views["weak"][:1].expand(3, *batch.views["weak"].shape[1:])
    seen: list[Tensor] = []
    for teacher in method.teachers:
        teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.step(Batch(index=batch.index, views={**batch.views, "weak": same}, boxes=batch.boxes), lab.progress(0))
    orders = {tuple(int((image == same[0]).all(dim=(1, 2, 3)).nonzero()) for image in images) for images in seen}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert tuple(range(8)) not in orders


def split_batch_norm(
    images: np.ndarray, layer: nn.BatchNorm2d, *, splits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return output, running mean and variance of MSVQ's split batch norm: sample n is in group n mod splits."""
    weight, bias, mean, variance = (
        tensor.detach().numpy() for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    output, means, variances = np.empty_like(images), [], []
    for split in range(splits):
        group = images[split::splits]
        for channel in range(images.shape[1]):
            values = group[:, channel]
            normal = (values - values.mean()) / math.sqrt(values.var() + layer.eps)
            output[split::splits, channel] = weight[channel] * normal + bias[channel]
        means.append(0.9 * mean + 0.1 * group.mean(axis=(0, 2, 3)))
        variances.append(0.9 * variance + 0.1 * group.var(axis=(0, 2, 3), ddof=1))
    return output, np.mean(means, axis=0), np.mean(variances, axis=0)


@settings(max_examples=15)
@given(splits=st.integers(1, 4), each=st.integers(2, 4), seed=st.integers(0, 99))
def test_batch_norm_in_groups_is_the_published_split_one_on_a_permuted_batch(splits: int, each: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            tensor.copy_(1 + torch.rand(3, generator=generator, dtype=torch.float64))
    images = 2 + 3 * torch.randn(splits * each, 3, 4, 2, generator=generator, dtype=torch.float64)
    expected, mean, variance = split_batch_norm(images.numpy(), layer, splits=splits)
    strided = torch.arange(splits * each).view(each, splits).T.flatten()  # 0, s, 2s, ..., 1, s + 1, ...
    grouped = GroupedBatchNorm(layer, group=each)
    np.testing.assert_allclose(grouped(images[strided]).detach().numpy(), expected[strided.numpy()], rtol=1e-9)
    np.testing.assert_allclose(grouped.running_mean.numpy(), mean, rtol=1e-9)
    np.testing.assert_allclose(grouped.running_var.numpy(), variance, rtol=1e-9)
    grouped.eval()
    plain = nn.functional.batch_norm(images, *map(torch.tensor, (mean, variance)), grouped.weight, grouped.bias)
    torch.testing.assert_close(grouped(images), plain)


@pytest.mark.parametrize("variant", ["msvq", "msv", "mq"])
def test_one_embedding_for_everything_is_seen_as_collapse(lab, variant: str) -> None:
    method = lab.method("msvq", variant=variant, **SMALL)
    with torch.no_grad():
        for encoder in (method.encoder, *method.teachers):
            encoder.head[2].weight.zero_()
            encoder.head[2].bias.copy_(torch.arange(1.0, 13.0))
    for number, rows in enumerate((8, 16, 20)):
        method.step(lab.batch(method, number), lab.progress(number))
        output = copy.deepcopy(method).step(lab.batch(method, 9), lab.progress(9))
        assert output.loss.item() == pytest.approx(math.log(rows), rel=1e-6)
        assert output.metrics["relation/uniform_share"].item() == pytest.approx(1.0, rel=1e-6)
        assert output.metrics["relation/kl"].item() == pytest.approx(0.0, abs=1e-6)


def test_the_sizes_are_the_published_ones() -> None:
    backbone = create_backbone("resnet18", stem="cifar", seed=0)
    config, _ = MSVQ.resolve(MSVQ.Config(dictionary_size=4096), images=50_000, batch_size=256)
    method = MSVQ(config, backbone, backbone.width)
    count = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in (("backbone", backbone), ("head", method.encoder.head), ("all", method))
    }
    assert count == {"backbone": 11_168_832, "head": 1_312_896, "all": 3 * (11_168_832 + 1_312_896)}
    trainable = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    assert trainable == 11_168_832 + 1_312_896
    assert [queue.read().rows["projection"].shape for queue in method.queues] == [(4096, 128)] * 2


def test_the_learning_rate_is_the_authors_at_every_iteration() -> None:
    """Cifar: 195 iterations an epoch; from 0 to 0.06 in 5 epochs, then half a cosine to 0, per iteration."""
    defaults, per_epoch, epochs = MSVQ.training_defaults, 195, 200
    config = OptimiserConfig(
        name=defaults.optimiser,
        lr=defaults.lr,
        weight_decay=defaults.weight_decay,
        exclude_norm_and_bias=defaults.exclude_norm_and_bias,
        warmup_epochs=defaults.warmup_epochs,
        schedule=defaults.schedule,
        final_lr=defaults.final_lr,
        warmup_start=defaults.warmup_start,
    )
    assert (config.name, config.momentum, config.weight_decay, config.exclude_norm_and_bias) == (
        "sgd", 0.9, 5e-4, False,
    )  # fmt: skip
    peak = peak_learning_rate(config, 256)
    assert peak == pytest.approx(0.06)
    for step in [0, 1, 194, 195, 974, 975, 976, 1170, 1171, 20_000, 38_998, 38_999]:
        if step < 5 * per_epoch:
            expected = 0.06 * step / (5 * per_epoch)
        else:
            expected = 0.5 * 0.06 * (1 + math.cos((step - 5 * per_epoch) / (195 * per_epoch) * math.pi))
        found = learning_rate(config, peak=peak, step=step, steps=epochs * per_epoch, steps_per_epoch=per_epoch)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15), step


def test_the_defaults_are_the_authors_for_a_hundred_thousand_images() -> None:
    config, _ = MSVQ.resolve(MSVQ.Config(), images=200_000, batch_size=256)
    assert (config.variant, config.momentum, config.second_momentum) == ("msvq", 0.996, 0.99)
    assert (config.temperature, config.teacher_temperature) == (0.1, 0.04)
    assert (config.hidden, config.width, config.dictionary_size) == (2048, 128, 16_384)
    with pytest.raises(UserError, match=r"method\.dictionary_size: 100 must be larger than the 256 keys"):
        MSVQ.resolve(MSVQ.Config(dictionary_size=100), images=200_000, batch_size=256)
    _, notes = MSVQ.resolve(MSVQ.Config(teacher_temperature=0.1), images=200_000, batch_size=256)
    assert any("may collapse" in note for note in notes)


def toy_run(lab, *, teacher_temperature: float) -> tuple[float, float, float]:
    """Train on eight coarse patterns under tint and noise.

    Return the accuracy of 5 neighbours on held-out views before and after, and the last loss as a share of ln K.
    """
    sizes = {"hidden": 32, "width": 16, "dictionary_size": 96, "momentum": 0.95, "second_momentum": 0.8}
    method = lab.method("msvq", teacher_temperature=teacher_temperature, **sizes)
    optimiser = lab.optimiser(method, lr=0.2)
    generator = torch.Generator().manual_seed(2)
    patterns = nn.functional.interpolate(torch.randn(8, 3, 3, 3, generator=generator), size=24)

    def view(classes: Tensor, *, tint: float, noise: float) -> Tensor:
        colours = tint * torch.randn(len(classes), 3, 1, 1, generator=generator)
        return patterns[classes] + colours + noise * torch.randn(len(classes), 3, 24, 24, generator=generator)

    truth = torch.arange(8).repeat(24)
    held_out = view(truth, tint=0.7, noise=0.5)

    def accuracy() -> float:
        with torch.no_grad():
            features = nn.functional.normalize(method.backbone(held_out), dim=1)
        nearest = (features @ features.T).fill_diagonal_(-2).topk(5, dim=1).indices
        votes = nn.functional.one_hot(truth[nearest], 8).sum(dim=1)
        return (votes.argmax(dim=1) == truth).float().mean().item()

    before = accuracy()
    for step in range(80):
        classes = torch.randint(0, 8, (16,), generator=generator)
        views = {
            "strong": view(classes, tint=0.7, noise=0.5)[None],
            "weak": torch.stack([view(classes, tint=0.5, noise=0.4) for _ in range(3)]),
        }
        boxes = {"strong": torch.zeros(1, 16, 4), "weak": torch.zeros(3, 16, 4)}
        batch = Batch(index=torch.arange(16 * step, 16 * step + 16), views=views, boxes=boxes)
        output = method.step(batch, Progress(step=step, steps=80, steps_per_epoch=80, seed=0))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(lab.progress(step))
    return before, accuracy(), float(output.metrics["relation/uniform_share"])


def test_it_learns_and_without_sharpening_it_learns_less(lab) -> None:
    before, sharp, share = toy_run(lab, teacher_temperature=0.04)
    same_before, blunt, blunt_share = toy_run(lab, teacher_temperature=0.1)
    assert before == same_before > 0.5  # an eighth by chance
    assert sharp > before + 0.1
    assert sharp > blunt + 0.05
    assert share < 0.95
    assert blunt_share > 0.97, "without sharpening the loss stays at ln K"
