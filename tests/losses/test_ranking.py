"""The ranking losses against slow loops from the definitions, their gradients, and what must not change them."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.losses import rank_views, ranking_average_precision, ranking_loss

SETTINGS = [
    {"relaxation": "smooth", "temperature": 0.01},
    {"relaxation": "smooth", "temperature": 0.3},
    {"relaxation": "hist", "bins": 1},
    {"relaxation": "hist", "bins": 10},
    {"relaxation": "hist", "bins": 25},
]
EITHER = pytest.mark.parametrize("relaxation", ["smooth", "hist"])
EVERY = pytest.mark.parametrize("how", SETTINGS, ids=lambda how: "-".join(map(str, how.values())))
UNEQUAL = torch.tensor([4, 1, 9, 4, 1, 9, 9, 2, 2, 4, 9])  # two, three and four views, in no order


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grouped(seed, images=5, views=3, dim=6):
    """Return embeddings whose views of one image are somewhat alike, and the images' numbers."""
    ids = torch.arange(images).repeat_interleave(views)
    return draw(seed, images, dim)[ids] + draw(seed + 1, images * views, dim), ids


def on_a_circle(scores):
    """Return unit vectors of which row 0 has these scores with the others, and 1 with itself."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    rows = torch.stack([scores, (1 - scores**2).sqrt()], dim=1)
    return torch.cat([torch.tensor([[1.0, 0.0]], dtype=torch.float64), rows])


def slow_scores(embeddings):
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return [[float(first @ second) for second in units] for first in units]


def slow_precision(scores, ids, query, step):
    """Return the AP of one query: the definition, with `step` (0, 1/2, 1 or a sigmoid) for "is in front of"."""
    others = [m for m in range(len(ids)) if m != query]
    positives = [m for m in others if ids[m] == ids[query]]
    total = 0.0
    for i in positives:
        among = 1 + sum(step(scores[j] - scores[i]) for j in positives if j != i)
        everything = 1 + sum(step(scores[j] - scores[i]) for j in others if j != i)
        total += among / everything
    return total / len(positives)


def slow_histogram_precision(scores, ids, query, bins):
    """Return FastAP's AP of one query: triangular bins over the squared distance, centre by centre."""
    width = 4 / bins
    centres = [centre * width for centre in range(bins + 1)]

    def weight(m, centre):
        return max(0.0, 1 - abs(2 - 2 * scores[m] - centre) / width)

    others = [m for m in range(len(ids)) if m != query]
    positives = [m for m in others if ids[m] == ids[query]]
    total = below = found = 0.0
    for centre in centres:
        here = sum(weight(m, centre) for m in positives)
        found += here
        below += sum(weight(m, centre) for m in others)
        total += here * found / below if below > 0 else 0.0
    return total / len(positives)


def slow_quantised_precision(scores, ids, query, centres):
    """Return the listwise quantised AP (precision times new recall, bin by bin) over similarities from 1 to -1."""
    gap = 2 / (centres - 1)
    mine = np.array([ids[m] == ids[query] and m != query for m in range(len(ids))], dtype=float)
    counted = np.array([m != query for m in range(len(ids))], dtype=float)
    bins = np.maximum(0, 1 - np.abs(np.array(scores)[None] - np.linspace(1, -1, centres)[:, None]) / gap)
    found, seen = bins @ mine, bins @ counted
    precision = np.cumsum(found) / (1e-16 + np.cumsum(seen))
    return float(np.sum(precision * found / mine.sum()))


def slow_loss(embeddings, ids, how, queries=None):
    table, ids = slow_scores(embeddings.numpy()), ids.tolist()
    rows = range(len(ids)) if queries is None else queries

    def precision(query):
        if how["relaxation"] == "hist":
            return slow_histogram_precision(table[query], ids, query, how["bins"])
        return slow_precision(table[query], ids, query, lambda x: 1 / (1 + np.exp(-x / how["temperature"])))

    return float(np.mean([1 - precision(query) for query in rows]))


def slow_exact(embeddings, ids, queries=None):
    table, ids = slow_scores(embeddings.numpy()), ids.tolist()
    rows = range(len(ids)) if queries is None else queries
    return float(np.mean([slow_precision(table[q], ids, q, lambda x: np.heaviside(x, 0.5)) for q in rows]))


@EVERY
@pytest.mark.parametrize("queries", [None, [3], [7, 0, 10, 2]])
def test_equals_the_loop(how, queries):
    embeddings = 3 * draw(0, len(UNEQUAL), 5)
    rows = None if queries is None else torch.tensor(queries)
    ranked = rank_views(embeddings, UNEQUAL, queries=rows, **how)
    assert ranked.loss.item() == pytest.approx(slow_loss(embeddings, UNEQUAL, how, queries), abs=1e-12)
    assert ranked.exact.item() == pytest.approx(slow_exact(embeddings, UNEQUAL, queries), abs=1e-12)
    assert torch.equal(ranking_loss(embeddings, UNEQUAL, queries=rows, **how), ranked.loss)


def test_exact_precision_equals_the_loop():
    embeddings = draw(1, len(UNEQUAL), 5)
    expected = slow_exact(embeddings, UNEQUAL)
    assert ranking_average_precision(embeddings, UNEQUAL).item() == pytest.approx(expected, abs=1e-12)
    assert rank_views(embeddings, UNEQUAL).exact.item() == pytest.approx(expected, abs=1e-12)


def test_defaults_are_the_contract_s():
    embeddings, ids = grouped(0)
    assert torch.equal(
        ranking_loss(embeddings, ids), ranking_loss(embeddings, ids, relaxation="smooth", temperature=0.05)
    )
    assert torch.equal(
        ranking_loss(embeddings, ids, relaxation="hist"), ranking_loss(embeddings, ids, relaxation="hist", bins=10)
    )


@EVERY
@pytest.mark.parametrize("queries", [None, torch.tensor([5, 0, 5])])
def test_gradients_equal_finite_differences(how, queries):
    embeddings = draw(2, len(UNEQUAL), 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ranking_loss(z, UNEQUAL, queries=queries, **how), (embeddings,))


@pytest.mark.parametrize(("bins", "centres"), [(4, 5), (24, 25)])
def test_hist_is_the_quantised_form_on_the_similarity_axis(bins, centres):
    embeddings, ids = grouped(3)
    table = slow_scores(embeddings.numpy())
    expected = np.mean([1 - slow_quantised_precision(table[q], ids.tolist(), q, centres) for q in range(len(ids))])
    assert ranking_loss(embeddings, ids, relaxation="hist", bins=bins).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("scores", "relevant", "expected"),
    [
        ([0.9, 0.7, 0.5, 0.3, 0.1], [1, 0, 1, 0, 0], 5 / 6),
        ([0.9, 0.7, 0.5, 0.3, 0.1], [0, 0, 0, 1, 1], 0.325),
        ([0.9, 0.7, 0.5, 0.3, 0.1], [1, 1, 0, 0, 0], 1.0),
        ([0.5, 0.5, 0.3], [1, 0, 0], 2 / 3),
        ([0.5, 0.5, 0.5], [1, 0, 1], 1.5 / 2),  # by the definition: R+ = 1 + 1/2, R = R+ + 1/2
    ],
)
def test_known_rankings(scores, relevant, expected):
    embeddings, ids, query = on_a_circle(scores), torch.tensor([1, *relevant]), torch.tensor([0])
    relaxed = rank_views(torch.cat([embeddings, -embeddings[:1]]), torch.cat([ids, ids.new_zeros(1)]), queries=query)
    assert relaxed.exact.item() == pytest.approx(expected, abs=1e-12)  # with one more negative, last of all
    sharp = ranking_loss(embeddings, ids, temperature=1e-5, queries=query)
    assert 1 - sharp.item() == pytest.approx(expected, abs=1e-9)


def test_a_perfect_ranking_is_near_one_as_far_as_the_gaps_say():
    embeddings, ids, query = on_a_circle([0.9, 0.7, 0.4, 0.3]), torch.tensor([1, 1, 1, 0, 0]), torch.tensor([0])
    for temperature in (0.2, 0.1, 0.05, 0.01):
        bound = sum(1 / (1 + np.exp((p - n) / temperature)) for p in (0.9, 0.7) for n in (0.4, 0.3))
        loss = ranking_loss(embeddings, ids, temperature=temperature, queries=query).item()
        assert 0 < loss <= bound
        assert rank_views(embeddings, ids, temperature=temperature, queries=query).exact.item() == 1


def test_hist_is_perfect_when_no_centre_is_shared():
    embeddings, ids, query = on_a_circle([0.95, 0.85, 0.35, -0.2]), torch.tensor([1, 1, 1, 0, 0]), torch.tensor([0])
    assert ranking_loss(embeddings, ids, relaxation="hist", queries=query).item() == 0
    shared = on_a_circle([0.95, 0.55, 0.5, -0.2])
    assert ranking_loss(shared, ids, relaxation="hist", queries=query).item() > 0.01


@settings(max_examples=25)
@given(
    scores=st.lists(st.floats(-0.99, 0.99), min_size=5, max_size=9),
    positives=st.integers(1, 4),
    moved=st.integers(0, 8),
    to=st.floats(-0.99, 0.99),
)
@example(scores=[0.0, 0.5, -0.5, 0.5, 0.5], positives=3, moved=0, to=-0.5)
def test_a_higher_positive_never_harms_and_a_higher_negative_never_helps(scores, positives, moved, to):
    """A positive: the exact average precision, unless it leaves a tie with another one or comes to one.

    Two positives at one place count 1/2 each way, which is worth more than one of them above the other: 2.5 / 4.5 twice
    against 2 / 4 and 3 / 5. The relaxed precision has that near ties, too.
    """
    moved %= len(scores)
    low, high = sorted([scores[moved], to])
    ids = torch.tensor([1] * (1 + positives) + [0] * (len(scores) - positives))
    query, found = torch.tensor([0]), []
    for value in (low, high):
        embeddings = on_a_circle([*scores[:moved], value, *scores[moved + 1 :]])
        ranked = rank_views(embeddings, ids, temperature=0.1, queries=query)
        found.append((1 - ranked.loss, ranked.exact))
    relaxed, exact = (after - before for before, after in zip(*found, strict=True))
    others = [score for place, score in enumerate(scores[:positives]) if place != moved]
    if moved >= positives:
        assert relaxed <= 1e-9
        assert exact <= 1e-9
    elif all(abs(score - end) > 1e-6 for score in others for end in (low, high)) and _apart(others):
        assert exact >= -1e-9


def _apart(scores):
    ranked = sorted(scores)
    return all(above - below > 1e-6 for below, above in itertools.pairwise(ranked))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**20), how=st.sampled_from(SETTINGS), scale=st.floats(0.01, 100))
def test_order_length_rotation_and_names_do_not_matter(seed, how, scale):
    embeddings = draw(seed, len(UNEQUAL), 4)
    ranked = rank_views(embeddings, UNEQUAL, **how)
    assert -1e-6 <= ranked.loss.item() < 1 and 0 < ranked.exact.item() <= 1
    order = torch.randperm(len(UNEQUAL), generator=torch.Generator().manual_seed(seed))
    rotation, _ = torch.linalg.qr(draw(seed + 1, 4, 4))
    lengths = scale * draw(seed + 2, len(UNEQUAL), 1).abs().add(0.1)
    renamed = 10**12 - 7 * UNEQUAL
    changed = rank_views((lengths * embeddings @ rotation)[order], renamed[order], **how)
    for field in ("loss", "exact", "saturated"):
        torch.testing.assert_close(getattr(changed, field), getattr(ranked, field), rtol=0, atol=1e-9)


@EITHER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_chunk_does_not_matter(relaxation, dtype, monkeypatch):
    embeddings, ids = grouped(4, images=12, views=4)
    results = []
    for chunk in (1, 500, 2**21):
        monkeypatch.setattr("scenewise.losses.ranking.CHUNK", chunk)
        leaf = embeddings.to(dtype, copy=True).requires_grad_()
        ranked = rank_views(leaf, ids, relaxation=relaxation)
        ranked.loss.backward()
        results.append(
            torch.cat([torch.stack([ranked.loss.detach(), ranked.exact, ranked.saturated]), leaf.grad.ravel()])
        )
    torch.testing.assert_close(results[0], results[2], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(results[1], results[2], rtol=1e-6, atol=1e-8)


@EVERY
def test_processes_with_their_own_queries_equal_one(how):
    embeddings, ids = grouped(5, images=4, views=4)
    whole, parts = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss = ranking_loss(whole, ids, **how)
    loss.backward()
    mean = torch.stack([ranking_loss(parts, ids, queries=rows, **how) for rows in torch.arange(16).chunk(2)]).mean()
    mean.backward()
    torch.testing.assert_close(mean, loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-12)
    alone = embeddings.clone().requires_grad_()  # a gather that lets no gradient back
    blocked = torch.cat([alone[:8], alone[8:].detach()])
    ranking_loss(blocked, ids, queries=torch.arange(8), **how).backward()
    assert (alone.grad[:8] / 2 - whole.grad[:8]).norm() > 1e-2 * whole.grad[:8].norm()


def test_copies_of_an_image_in_the_batch_are_positives():
    embeddings, ids = grouped(6, images=4, views=2)
    together = torch.where(ids == 3, 0, ids)
    expected = slow_loss(embeddings, together, {"relaxation": "smooth", "temperature": 0.05})
    assert ranking_loss(embeddings, together).item() == pytest.approx(expected, abs=1e-12)


@EITHER
def test_the_gradient_does_not_change_the_length(relaxation):
    embeddings = (5 * draw(7, len(UNEQUAL), 4)).requires_grad_()
    ranking_loss(embeddings, UNEQUAL, relaxation=relaxation, temperature=0.1).backward()
    assert embeddings.grad.abs().max() > 1e-3
    torch.testing.assert_close((embeddings.grad * embeddings).sum(1), torch.zeros(len(UNEQUAL), dtype=torch.float64))


@EITHER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_collapsed_batch_is_finite_and_can_be_left(relaxation, dtype):
    equal = torch.ones(8, 4, dtype=dtype, requires_grad=True)
    ids = torch.arange(4).repeat(2)
    ranked = rank_views(equal, ids, relaxation=relaxation)
    (gradient,) = torch.autograd.grad(ranked.loss, equal)
    assert ranked.loss.isfinite() and gradient.abs().max() < 1e-5
    assert ranked.exact.item() == pytest.approx(1 / 4)  # one positive tied with six negatives: 1 / (1 + 6 / 2)
    moved = (equal.detach() + 1e-3 * draw(8, 8, 4).to(dtype)).requires_grad_()
    (gradient,) = torch.autograd.grad(ranking_loss(moved, ids, relaxation=relaxation), moved)
    assert gradient.isfinite().all() and gradient.abs().max() > 1e-5


@EITHER
@pytest.mark.parametrize("blank", [slice(0, 1), slice(0, 8)])
def test_vectors_without_length_give_finite_values_and_gradients(relaxation, blank):
    embeddings = draw(9, 8, 4).float()
    embeddings[blank] = 0
    embeddings.requires_grad_()
    ranked = rank_views(embeddings, torch.arange(4).repeat(2), relaxation=relaxation)
    (gradient,) = torch.autograd.grad(ranked.loss, embeddings)
    assert ranked.loss.isfinite() and ranked.exact.isfinite()
    assert gradient.isfinite().all() and not gradient[blank].any()


@EITHER
def test_what_is_not_a_number_shows_in_the_loss(relaxation):
    embeddings, ids = grouped(10)
    embeddings[4] = torch.nan
    assert rank_views(embeddings, ids, relaxation=relaxation).loss.isnan()


@EITHER
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_and_autocast_changes_nothing(relaxation, dtype):
    embeddings, ids = grouped(11, dim=16)
    leaf = embeddings.to(dtype).requires_grad_()
    plain = rank_views(leaf, ids, relaxation=relaxation)
    wide = rank_views(leaf.detach().double(), ids, relaxation=relaxation)
    assert plain.loss.dtype == plain.exact.dtype == torch.float32 and wide.loss.dtype == torch.float64
    assert plain.loss.item() == pytest.approx(wide.loss.item(), abs=2e-5)
    assert plain.exact.item() == pytest.approx(wide.exact.item(), abs=1e-6)
    with torch.autocast("cpu", dtype=dtype if dtype == torch.bfloat16 else torch.float16):
        cast = rank_views(leaf, ids, relaxation=relaxation)
    assert torch.equal(cast.loss, plain.loss) and torch.equal(cast.exact, plain.exact)
    gradients = [torch.autograd.grad(ranked.loss, leaf)[0] for ranked in (plain, cast)]
    assert gradients[0].dtype == dtype and torch.equal(*gradients)


def test_a_reduced_matmul_precision_changes_nothing():
    embeddings, ids = (item.float() if item.is_floating_point() else item for item in grouped(12, images=40, dim=64))
    plain = ranking_loss(embeddings, ids, temperature=0.01)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(ranking_loss(embeddings, ids, temperature=0.01), plain)
    finally:
        torch.set_float32_matmul_precision(before)


@EITHER
def test_layout_does_not_matter_and_inputs_stay(relaxation):
    embeddings, ids = grouped(13)
    kept, rows = embeddings.clone(), torch.arange(0, 15, 2)
    loss = ranking_loss(embeddings, ids, relaxation=relaxation, queries=rows)
    strided = embeddings.T.contiguous().T
    assert not strided.is_contiguous()
    other = ranking_loss(strided, torch.stack([ids, ids], dim=1)[:, 0], relaxation=relaxation, queries=rows)
    torch.testing.assert_close(other, loss, rtol=0, atol=1e-12)
    assert torch.equal(embeddings, kept) and torch.equal(rows, torch.arange(0, 15, 2))


@EITHER
def test_one_image_has_nothing_to_rank(relaxation):
    embeddings = draw(14, 5, 4).requires_grad_()
    ranked = rank_views(embeddings, torch.full((5,), 3), relaxation=relaxation)
    (gradient,) = torch.autograd.grad(ranked.loss, embeddings)
    assert (ranked.loss.item(), ranked.exact.item(), ranked.saturated.item()) == (0, 1, 1)
    assert not gradient.any()
    assert ranking_average_precision(embeddings, torch.full((5,), 3)).item() == 1


def test_saturated_counts_the_queries_without_a_gradient_left():
    angles = torch.tensor([0.0, 0.01, 2.0, 2.01, 4.0, 4.8], dtype=torch.float64)  # the last pair is not close
    embeddings, ids = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 0, 1, 1, 2, 2])
    how = {"relaxation": "smooth", "temperature": 0.1}
    below = [slow_loss(embeddings, ids, how, [query]) < 1e-3 for query in range(len(ids))]
    ranked = rank_views(embeddings, ids, **how)
    assert 0 < sum(below) < len(below)
    assert ranked.exact.item() == 1 and ranked.saturated.item() == pytest.approx(np.mean(below))
    assert rank_views(embeddings, ids, temperature=0.01).saturated.item() == 1
    assert rank_views(embeddings, ids, temperature=10.0).saturated.item() == 0


def test_only_the_loss_has_a_gradient_and_only_its_own_size_is_kept():
    embeddings, ids = grouped(15, images=40, views=4, dim=8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        ranked = rank_views(embeddings.requires_grad_(), ids)
    assert ranked.loss.requires_grad and not ranked.exact.requires_grad and not ranked.saturated.requires_grad
    assert not ranking_average_precision(embeddings, ids).requires_grad
    assert max(kept) == embeddings.numel()
    (3 * ranked.loss).backward()
    (single,) = torch.autograd.grad(ranking_loss(embeddings, ids), embeddings)
    torch.testing.assert_close(embeddings.grad, 3 * single)


def test_a_second_derivative_is_refused():
    embeddings, ids = grouped(16)
    loss = ranking_loss(embeddings.requires_grad_(), ids)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, embeddings, create_graph=True)


@pytest.mark.parametrize(
    ("ids", "how", "said"),
    [
        ([5, 5, 7, 8, 8], {}, r"ids: .*image 7; .*at least two views"),
        ([1, 2, 3, 4, 5, 6, 7], {}, r"image 1, 2, 3, 4, 5, \.\.\.;"),
        ([5, 5, 8, 8], {"relaxation": "smoth"}, "relaxation: .*'smoth'.*'smooth'"),
        ([5, 5, 8, 8], {"temperature": 0.0}, "temperature: 0.0"),
        ([5, 5, 8, 8], {"relaxation": "hist", "bins": 0}, "bins: 0"),
        ([5, 5, 8, 8], {"queries": torch.zeros(0, dtype=torch.int64)}, "queries: no row"),
    ],
)
def test_what_is_wrong_is_named(ids, how, said):
    with pytest.raises(UserError, match=said):
        ranking_loss(draw(17, len(ids), 3), torch.tensor(ids), **how)


def test_an_image_with_one_view_may_stand_in_the_gallery():
    embeddings, ids, queries = draw(18, 5, 3), torch.tensor([5, 5, 7, 8, 8]), [0, 4]
    expected = slow_loss(embeddings, ids, {"relaxation": "smooth", "temperature": 0.05}, queries)
    assert ranking_loss(embeddings, ids, queries=torch.tensor(queries)).item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="image 7"):
        ranking_average_precision(embeddings, ids)


def test_following_the_gradient_raises_the_exact_precision():
    embeddings, ids = grouped(19, images=8, views=4, dim=8)
    for relaxation in ("smooth", "hist"):
        leaf = embeddings.float().requires_grad_()
        before = ranking_average_precision(leaf, ids)
        optimiser = torch.optim.SGD([leaf], lr=10.0)
        for _ in range(40):
            optimiser.zero_grad()
            ranking_loss(leaf, ids, relaxation=relaxation, temperature=0.1).backward()
            optimiser.step()
        assert ranking_average_precision(leaf, ids) > before + 0.2


PROBE = """
import pathlib, resource, sys, torch
from scenewise.losses import rank_views

torch.set_num_threads(1)

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage would include the process that started this one
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def step(images, relaxation):
    ids = torch.arange(images).repeat_interleave(8)
    embeddings = torch.randn(len(ids), 128, requires_grad=True)
    before = peak()
    rank_views(embeddings, ids, relaxation=relaxation).loss.backward()
    assert embeddings.grad.isfinite().all() and embeddings.grad.any()
    return peak() - before

for relaxation in ("smooth", "hist"):
    step(4, relaxation)
print(max(step(512, relaxation) for relaxation in ("smooth", "hist")))
"""


def test_4096_views_take_less_than_half_a_gigabyte():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500e6


COMPILED = """
import torch
from scenewise.losses import ranking_loss

ids = torch.arange(4).repeat(3)
first = torch.randn(12, 5, requires_grad=True)
second = first.detach().clone().requires_grad_()
compiled = torch.compile(ranking_loss, backend="eager")
for relaxation in ("smooth", "hist"):
    plain, graph = ranking_loss(first, ids, relaxation=relaxation), compiled(second, ids, relaxation=relaxation)
    plain.backward(), graph.backward()
    torch.testing.assert_close(graph, plain)
    torch.testing.assert_close(second.grad, first.grad)
"""


@pytest.mark.slow
def test_compiled_it_is_the_same():
    # In a process of its own: the annotations that the tests check are no graph.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
