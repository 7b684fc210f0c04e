"""MLS: the worked example, its variants against loops, its dictionaries, its equality with MoCo v2 at weight 0."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenewise.errors import UserError
from scenewise.methods.mls import MLS
from scenewise.parts.momentum import momentum_update
from scenewise.parts.queue import Snapshot
from scenewise.types import Batch, Progress, StepOutput

SPACES = ["feature", "projection"]
START = Progress(step=0, steps=10, steps_per_epoch=10, seed=0)


class Given(nn.Module):
    """An encoder whose answer is written down."""

    def __init__(self, features: list[list[float]], projection: list[list[float]]) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.tensor(features, dtype=torch.float64))
        self.projection = nn.Parameter(torch.tensor(projection, dtype=torch.float64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.features[: len(images)] * 1.0, self.projection[: len(images)] * 1.0


AS_WRITTEN = {"k": 2, "reduction": "mean", "logit_bias": 0.0, "weight": 0.5}  # Eq. 9 and 10 to the letter


def hand_example(**choices) -> tuple[MLS, StepOutput]:
    """Return the method and its step on the worked example (B = 1, D = 4, k = 2, temperature 0.2, lambda 0.5)."""
    config = MLS.Config(**{**AS_WRITTEN, "width": 2, "dictionary_size": 4, "shuffle": False, **choices})
    method = MLS(config, nn.Identity(), 2).double()
    method.encoder = Given([[2.0, 1.5]], [[3.0, 4.0]])
    method.teacher = Given([[1.0, 1.0]], [[4.0, 3.0]])
    method.queue.push(
        {
            "feature": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]], dtype=torch.float64),
            "projection": torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64),
        },
        image=torch.arange(4),
        box=torch.zeros(4, 4),
        step=0,
    )
    views = {name: torch.zeros(1, 1, 3, 4, 4) for name in ("query", "key")}
    boxes = {"query": torch.zeros(1, 1, 4), "key": torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])}
    return method, method.step(Batch(index=torch.tensor([9]), views=views, boxes=boxes), START)


def test_the_worked_example_end_to_end() -> None:
    method, output = hand_example()
    assert output.terms["contrast"].item() == pytest.approx(0.4794515569, abs=1e-9)
    assert output.terms["multilabel"].item() == pytest.approx(3.5333686397, abs=1e-9)
    assert output.loss.item() == pytest.approx(2.2461358768, abs=1e-9)
    (gradient,) = torch.autograd.grad(output.terms["multilabel"], method.encoder.projection)
    assert gradient[0].tolist() == pytest.approx([0.06914041, -0.05185531], abs=1e-8)
    newest = method.queue.read()  # the key took the oldest row of both dictionaries
    assert newest.image.tolist() == [9, 1, 2, 3]
    assert newest.box[0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert newest.rows["projection"][0].tolist() == pytest.approx([0.8, 0.6])
    assert newest.rows["feature"][0].tolist() == pytest.approx([math.sqrt(0.5)] * 2)


@pytest.mark.parametrize(
    ("choices", "term"),
    [
        ({"variant": "bce_pos"}, 1.7666843199),
        ({"variant": "knn_softmax"}, 7.8137175024),
        ({"variant": "knn_softmax", "softmax_form": "supervised_contrastive"}, 7.8141731540),
        ({"variant": "none"}, 0.0),
        ({"reduction": "sum"}, 4 * 3.5333686397),
        ({"reduction": "per_positive"}, 2 * 3.5333686397),
        ({"reduction": "balanced"}, 2 * 3.5333686397),  # two positives, two negatives
    ],
)
def test_the_variants_of_the_worked_example(choices: dict, term: float) -> None:
    _, output = hand_example(**choices)
    assert output.terms["multilabel"].item() == pytest.approx(term, abs=1e-8)
    assert output.loss.item() == pytest.approx(0.4794515569 + 0.5 * term, abs=1e-8)


def slow_labels(query: np.ndarray, rows: np.ndarray, usable: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest usable rows of each query, by sorting cosines."""
    labels = np.zeros(usable.shape, dtype=bool)
    for b, vector in enumerate(query):
        cosines = [(-float(vector @ rows[j]) / np.linalg.norm(vector), j) for j in np.flatnonzero(usable[b])]
        labels[b, [j for _, j in sorted(cosines)[:k]]] = True
    return labels


def slow_bias(logits: list[float], k: int) -> float:
    """Return the offset at which the sigmoids sum to k, within the share that the loss keeps away from none and all."""
    wanted = len(logits) * min(max(k / max(1, len(logits)), 1e-6), 1 - 1e-6)
    low, high = -60.0, 60.0
    for _ in range(200):
        middle = (low + high) / 2
        if sum(1 / (1 + math.exp(-(logit + middle))) for logit in logits) > wanted:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def slow_term(query: np.ndarray, rows: np.ndarray, labels: np.ndarray, usable: np.ndarray, config: MLS.Config) -> float:
    """Return the extra loss of weight 1, one query and one row at a time."""
    temperature = config.temperature if config.term_temperature is None else config.term_temperature
    total = 0.0
    for b, vector in enumerate(query):
        cosine = {j: float(vector @ rows[j]) / np.linalg.norm(vector) for j in np.flatnonzero(usable[b])}
        positives = [j for j in cosine if labels[b, j]]
        negatives = [j for j in cosine if not labels[b, j]]
        if config.variant == "knn_softmax":
            exponential = {j: math.exp(value / temperature) for j, value in cosine.items()}
            for i in positives:
                others = negatives if config.softmax_form == "each_positive" else [j for j in cosine if j != i]
                below = exponential[i] + sum(exponential[j] for j in others)
                total -= math.log(exponential[i] / below) / len(positives)
            continue
        bias = config.logit_bias
        if bias == "calibrated":
            bias = slow_bias([value / temperature for value in cosine.values()], config.k)
        sigmoid = {j: 1 / (1 + math.exp(-(value / temperature + bias))) for j, value in cosine.items()}
        pull = sum(-math.log(sigmoid[j]) for j in positives)
        push = 0.0 if config.variant == "bce_pos" else sum(-math.log(1 - sigmoid[j]) for j in negatives)
        total += {
            "mean": (pull + push) / max(1, len(cosine)),
            "sum": pull + push,
            "balanced": pull / max(1, len(positives)) + push / max(1, len(negatives)),
            "per_positive": (pull + push) / max(1, len(positives)),
        }[config.reduction]
    return total / len(query)


def usable_rows(dictionary: Snapshot, batch: Batch, *, mask: bool) -> np.ndarray:
    own = dictionary.image.numpy()[None, :] == batch.index.numpy()[:, None]
    return np.broadcast_to(dictionary.valid.numpy(), own.shape) & ~(own & mask)


def as_numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().double().numpy() for tensor in tensors]


def meeting_own_images(lab, method: MLS, number: int) -> Batch:
    """Return a batch half of whose images have older crops in the dictionary."""
    batch, images = lab.batch(method, number), method.queue.image[: int(method.queue.filled)]
    count = min(4, len(images))
    return dataclasses.replace(batch, index=torch.cat([images[-count:], batch.index[count:]]))


@settings(max_examples=20)
@given(
    variant=st.sampled_from(["bce", "bce_pos", "knn_softmax"]),
    reduction=st.sampled_from(["mean", "sum", "balanced", "per_positive"]),
    softmax_form=st.sampled_from(["each_positive", "supervised_contrastive"]),
    label_source=st.sampled_from(SPACES),
    logit_source=st.sampled_from(SPACES),
    logit_bias=st.sampled_from([0.0, -3.0, "calibrated"]),
    term_temperature=st.sampled_from([None, 0.5]),
    mask_own_image=st.booleans(),
    k=st.integers(0, 30),
    steps=st.integers(1, 5),
)
def test_every_variant_equals_a_loop_and_so_do_the_figures(lab, steps: int, **choices) -> None:
    method = lab.trained("mls", steps=steps, dictionary_size=30, width=8, **choices)
    batch, config, old = meeting_own_images(lab, method, 9), method.config, method.queue.read()
    output = method.step(batch, lab.progress(9))
    with torch.no_grad():
        teacher_features, teacher_projection = as_numpy(*method.teacher(batch.views["key"][0]))
    features, projection = as_numpy(output.features, output.embeddings)
    rows = {name: column.double().numpy() for name, column in old.rows.items()}
    online = {"feature": features, "projection": projection}
    teacher = {"feature": teacher_features, "projection": teacher_projection}
    usable = usable_rows(old, batch, mask=config.mask_own_image)
    source = config.label_source
    labels = slow_labels(online[source], rows[source], usable, config.k)
    term = slow_term(online[config.logit_source], rows[config.logit_source], labels, usable, config)
    assert output.terms["multilabel"].item() == pytest.approx(term, rel=1e-4, abs=1e-5)
    assert output.loss.item() == pytest.approx(
        output.terms["contrast"].item() + config.weight * term, rel=1e-4, abs=1e-5
    )

    others = slow_labels(teacher[source], rows[source], usable, config.k)
    own = old.image.numpy()[None, :] == batch.index.numpy()[:, None]
    count = max(1, labels.sum())
    assert output.metrics["labels/new_share"].item() == pytest.approx((labels & ~others).sum() / count, abs=1e-6)
    assert output.metrics["labels/own_image_share"].item() == pytest.approx((labels & own).sum() / count, abs=1e-6)
    assert (labels.sum(axis=1) == np.minimum(config.k, usable.sum(axis=1))).all()


SHARED = {"momentum": 0.9, "width": 24, "dictionary_size": 20}


@pytest.mark.parametrize("norm", ["group", "grouped"])
@pytest.mark.parametrize("shared", [{}, {"queue_start": "random"}, {"mask_own_image": True, "shuffle": False}])
@pytest.mark.parametrize("silenced", [{"weight": 0.0}, {"warmup": 5.0}])
def test_without_its_term_it_is_moco_v2_bit_for_bit(lab, norm: str, shared: dict, silenced: dict) -> None:
    moco = lab.method("mocov2", norm=norm, **SHARED, **shared)
    method = lab.method("mls", norm=norm, **SHARED, **shared, **silenced)
    for one, other in zip(lab.run(method, range(6)), lab.run(moco, range(6)), strict=True):
        assert torch.equal(one, other)
    state = method.state_dict()
    for name, value in moco.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert set(state) - set(moco.state_dict()) == {"queue.rows_feature"}


def test_with_its_term_it_is_not_moco_v2(lab) -> None:
    moco, method = lab.method("mocov2", **SHARED), lab.method("mls", **SHARED)
    lab.run(moco, range(4))
    lab.run(method, range(4))
    assert not torch.equal(moco.encoder.head[0].weight, method.encoder.head[0].weight)


@pytest.mark.parametrize(("warmup", "first"), [(0.0, 0), (1.0, 10), (0.5, 5), (2.0, 20)])
def test_the_term_counts_after_so_many_epochs_and_is_watched_before(lab, warmup: float, first: int) -> None:
    method = lab.trained("mls", warmup=warmup)
    for step in {max(0, first - 1), first}:
        output = copy.deepcopy(method).step(lab.batch(method, 4), lab.progress(step))
        term, counts = output.terms["multilabel"], step >= first
        assert term.item() > 0
        assert term.requires_grad == counts
        expected = output.terms["contrast"] + method.config.weight * term if counts else output.terms["contrast"]
        assert torch.equal(output.loss, expected)


def labels_of(method: MLS, images: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the labels that the online encoder's features of these images get from the dictionary as it is."""
    dictionary = method.queue.read()
    features, projection = method.encoder(images)
    usable = dictionary.valid if mask is None else mask
    return method.labels({"feature": features, "projection": projection}, dictionary, usable)


def test_the_own_key_is_no_label_of_its_step_but_of_the_next(lab) -> None:
    """Query and key alike and the teacher equal to the online encoder: the own key is as near as can be."""
    method = lab.method("mls", k=1)
    lab.run(method, range(2))
    momentum_update(method.teacher, method.encoder, 0.0)
    batch = lab.batch(method, 2)
    batch = dataclasses.replace(batch, views=dict.fromkeys(batch.views, batch.views["query"]))
    figures = [method.step(batch, lab.progress(step)).metrics["labels/own_image_share"] for step in (2, 3)]
    assert [figure.item() for figure in figures] == [0.0, 1.0]
    images = method.queue.read().image
    chosen = labels_of(method, batch.views["query"][0])
    assert [images[row].tolist() for row in chosen] == [[int(index)] for index in batch.index]


def test_labels_are_the_k_nearest_written_rows_whatever_the_features_length(lab) -> None:
    for steps, expected in ((0, 0), (1, 8), (2, 12), (4, 12)):
        method = lab.trained("mls", steps=steps, k=12, dictionary_size=30)
        dictionary, images = method.queue.read(), lab.batch(method, 9).views["query"][0]
        features, projection = method.encoder(images)
        labels = method.labels({"feature": features, "projection": projection}, dictionary, dictionary.valid)
        assert (labels.sum(dim=1) == expected).all()
        assert not (labels & ~dictionary.valid).any()
        longer = method.labels({"feature": 7.5 * features, "projection": projection}, dictionary, dictionary.valid)
        assert torch.equal(longer, labels)


def test_k_of_all_rows_makes_every_label_one_and_of_none_every_label_zero(lab) -> None:
    for k, value in ((24, True), (0, False)):
        method = lab.trained("mls", k=k, dictionary_size=24)
        assert (labels_of(method, lab.batch(method, 9).views["query"][0]) == value).all()
        assert method.step(lab.batch(method, 9), lab.progress(9)).loss.isfinite()


def test_one_order_for_both_dictionaries(lab) -> None:
    method = lab.trained("mls", k=3, dictionary_size=24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))

    def term(*columns: str) -> float:
        twin = copy.deepcopy(method)
        for name in columns:
            column = twin.queue.get_buffer(name)
            column.copy_(column[order].clone())
        return twin.step(lab.batch(method, 9), lab.progress(9)).terms["multilabel"].item()

    assert term("rows_feature", "rows_projection") == pytest.approx(term(), rel=1e-5)
    assert abs(term("rows_feature") - term()) > 1e-4


def test_the_labels_pass_no_gradient_and_the_term_reaches_the_backbone(lab) -> None:
    method = lab.trained("mls", label_source="feature")
    output = method.step(lab.batch(method, 9), lab.progress(9))
    term = output.terms["multilabel"]
    (through_projection,) = torch.autograd.grad(term, output.embeddings, retain_graph=True)
    from_projection = torch.autograd.grad(
        output.embeddings, list(method.backbone.parameters()), through_projection, retain_graph=True
    )
    whole = torch.autograd.grad(term, list(method.backbone.parameters()))
    for one, other in zip(whole, from_projection, strict=True):  # all of it came through the projection
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0
    assert not labels_of(method, lab.batch(method, 9).views["query"][0]).requires_grad


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_labels_and_loss_are_computed_in_float32_under_autocast(lab, half: torch.dtype) -> None:
    method = lab.trained("mls", k=3)
    dictionary, images = method.queue.read(), lab.batch(method, 9).views["query"][0]
    features, projection = method.encoder(images)
    online = {"feature": features, "projection": projection}
    expected = method.labels(online, dictionary, dictionary.valid)
    exact = method._term(online, dictionary, expected, dictionary.valid)
    with torch.autocast("cpu", half):
        assert torch.equal(method.labels(online, dictionary, dictionary.valid), expected)
        found = method._term(online, dictionary, expected, dictionary.valid)
        output = method.step(lab.batch(method, 9), lab.progress(9))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)
    assert output.loss.isfinite()
    assert output.loss.dtype == torch.float32


def test_the_teacher_after_one_step_by_hand(lab) -> None:
    method = lab.method("mls")
    assert method.config.momentum == 0.995
    start = [parameter.clone() for parameter in method.teacher.parameters()]
    lab.run(method, range(1))
    for old, online, teacher in zip(start, method.encoder.parameters(), method.teacher.parameters(), strict=True):
        torch.testing.assert_close(teacher, 0.995 * old + 0.005 * online)


def test_the_papers_settings_are_the_defaults_but_for_the_measured_ones() -> None:
    config, notes = MLS.resolve(MLS.Config(), images=118_287, batch_size=256)
    assert notes == []
    assert (config.k, config.temperature, config.momentum) == (20, 0.2, 0.995)
    assert (config.weight, config.reduction, config.logit_bias) == (0.2, "per_positive", "calibrated")
    assert (config.width, config.dictionary_size, config.variant, config.warmup) == (256, 4096, "bce", 0.0)
    assert (config.label_source, config.logit_source) == ("feature", "projection")


def test_on_little_data_fewer_rows_are_positives_and_it_is_said() -> None:
    config, notes = MLS.resolve(MLS.Config(), images=5_415, batch_size=128)
    assert (config.dictionary_size, config.k) == (541, 10)
    assert any("method.k is 10" in note for note in notes)
    assert MLS.resolve(MLS.Config(k=20), images=5_415, batch_size=128)[0].k == 20


@pytest.mark.parametrize(("k", "problem"), [(33, "at most the dictionary's 32 rows"), (-1, "0 or more")])
def test_a_k_beyond_the_dictionary_is_refused(k: int, problem: str) -> None:
    with pytest.raises(UserError, match=rf"method\.k: {k} must be {problem}"):
        MLS.resolve(MLS.Config(k=k, dictionary_size=32), images=500, batch_size=8)


def test_on_images_of_known_classes_neighbours_gather_and_features_do_not_collapse(lab) -> None:
    """Eight coarse patterns under changing tint and noise: the neighbours come to be of the query's class."""
    method = lab.method("mls", width=16, k=4, dictionary_size=96, reduction="balanced", weight=0.1, mask_own_image=True)
    optimiser = lab.optimiser(method, lr=0.03)
    generator = torch.Generator().manual_seed(0)
    patterns = nn.functional.interpolate(torch.randn(8, 3, 3, 3, generator=generator), size=24)

    def view(classes: Tensor) -> Tensor:
        tint = 0.5 * torch.randn(len(classes), 3, 1, 1, generator=generator)
        return patterns[classes] + tint + 0.3 * torch.randn(len(classes), 3, 24, 24, generator=generator)

    shares = []
    for step in range(120):
        classes = torch.randint(0, 8, (16,), generator=generator)
        batch = Batch(
            index=8 * torch.arange(16 * step, 16 * (step + 1)) + classes,  # an image's number tells its class
            views={"query": view(classes)[None], "key": view(classes)[None]},
            boxes={"query": torch.zeros(1, 16, 4), "key": torch.zeros(1, 16, 4)},
        )
        labels = labels_of(method, batch.views["query"][0])
        same_class = method.queue.image[None, :] % 8 == classes[:, None]
        shares.append(same_class[labels].float().mean().item())  # the first is nan: no row, no label
        output = method.step(batch, START)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(START)
        assert output.loss.isfinite()
    early, late = np.mean(shares[6:16]), np.mean(shares[-10:])
    assert late > early + 0.2
    assert late > 0.75  # an eighth by chance
    spread = nn.functional.normalize(output.embeddings, dim=1).std(dim=0).mean()
    assert spread.item() > 0.3 / math.sqrt(16)
