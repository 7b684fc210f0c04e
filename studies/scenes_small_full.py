"""The full grid of scenes_small.py with three seeds, 200 epochs of MoCo v2 and what costs as much: for a GPU.

SCENEWISE_DATA=DATA scenewise study studies/scenes_small_full.py --out STUDY
"""

from __future__ import annotations

from scenes_small import SEEDS, study

STUDY = study(seeds=SEEDS, full=True)
