"""The full grid of scenes_small.py with three seeds: for a GPU, or for days.

SCENEWISE_DATA=DATA scenewise study studies/scenes_small_full.py --out STUDY
"""

from __future__ import annotations

from scenes_small import SEEDS, study

STUDY = study(seeds=SEEDS, full=True)
