"""kNN evaluation, 10,000 queries among a bank of 50,000 rows, 512 wide: ours beside scikit-learn's brute force.

    python benchmarks/neighbours.py [--quick] [--json FILE]

scikit-learn is given unit vectors and the Euclidean distance, which orders them as the cosine does and is its fastest
way. Both predict the class of every query. Processor seconds, both on one thread.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rows import Row, compare, run_alone, take_turns
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from scenewise.evaluate.metrics import knn_predict

BANK, QUERIES, WIDTH, K, CLASSES = 50_000, 10_000, 512, 20, 100
OURS, THEIRS = "knn_predict", "scikit-learn, brute force"


def rows(*, quick: bool) -> list[Row]:
    """Return the rows of this benchmark."""
    torch.set_num_threads(1)
    share = 10 if quick else 1
    generator = torch.Generator().manual_seed(0)
    bank, queries = (
        F.normalize(torch.randn(count // share, WIDTH, generator=generator), dim=1) for count in (BANK, QUERIES)
    )
    labels = torch.randint(CLASSES, (len(bank),), generator=generator)
    judge = KNeighborsClassifier(K, algorithm="brute", n_jobs=1).fit(bank.numpy(), labels.numpy())

    def ours() -> torch.Tensor:
        return knn_predict(queries, bank, labels, classes=CLASSES, k=K, temperature=0.07)

    work = {THEIRS: lambda: judge.predict(queries.numpy()), OURS: ours}
    with threadpool_limits(1):
        seconds = take_turns(work, rounds=3)
    group = f"kNN of {len(queries):,} queries in {len(bank):,} x {WIDTH}, {K} neighbours"
    return compare(group, seconds, against=THEIRS, unit="s")


if __name__ == "__main__":
    run_alone(rows, __doc__)
