"""What was published, written down a second time: the recipes against the authors' tables, commands and files."""

from __future__ import annotations

from typing import Any

import pytest

from scenewise.engine.config import RunConfig, build
from scenewise.engine.config_tree import merge
from scenewise.engine.optim import learning_rate, peak_learning_rate
from scenewise.recipes import recipe_names, recipe_tree

CIFAR10 = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
CIFAR100 = ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761])
STL10 = ([0.4408, 0.4279, 0.3867], [0.2682, 0.2610, 0.2686])
TINY = ([0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262])
UNIT = ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])

# MSVQ's four columns: pixels, stem, slow and fast momentum, teacher's temperature, rows of a queue, colours
MSVQ: dict[str, tuple[Any, ...]] = {
    "msvq-cifar10": (32, "cifar", 0.99, 0.95, 0.04, 4096, CIFAR10),
    "msvq-cifar100": (32, "cifar", 0.99, 0.93, 0.03, 4096, CIFAR100),
    "msvq-stl10": (64, "cifar-pool", 0.996, 0.99, 0.04, 16384, STL10),
    "msvq-tinyimagenet": (64, "cifar-pool", 0.996, 0.99, 0.04, 16384, TINY),
    "msv-cifar10": (32, "cifar", 0.99, 0.95, 0.04, 4096, CIFAR10),
    "mq-cifar10": (32, "cifar", 0.99, 0.95, 0.04, 4096, CIFAR10),
    "msv-cifar100": (32, "cifar", 0.99, 0.93, 0.03, 4096, CIFAR100),
    "mq-cifar100": (32, "cifar", 0.99, 0.93, 0.03, 4096, CIFAR100),
}

# optimiser, the rate as the authors write it (for their own batch), weight decay, excluded from it, warm-up epochs,
# cosine per step or per epoch; batch, epochs
TRAINING: dict[str, tuple[Any, ...]] = {
    "mls-coco-400": ("sgd", 0.3, 1e-4, False, 0, "epoch", 256, 400),
    "mls-coco-800": ("sgd", 0.3, 1e-4, False, 0, "epoch", 256, 800),
    "mocov2-coco-400": ("sgd", 0.3, 1e-4, False, 0, "epoch", 256, 400),
    "mocov2-coco-800": ("sgd", 0.3, 1e-4, False, 0, "epoch", 256, 800),
    "densecl-coco-800": ("sgd", 0.3, 1e-4, False, 0, "epoch", 256, 800),
    "densecl-coco-1600": ("sgd", 0.3, 1e-4, False, 0, "epoch", 256, 1600),
    "simclr-coco-800": ("lars", 0.6, 1e-6, True, 10, "epoch", 512, 800),
    "byol-coco-800": ("sgd", 0.4, 1e-4, False, 4, "epoch", 512, 800),
    "univip-coco-800": ("sgd", 0.4, 1e-4, False, 4, "epoch", 512, 800),
    "univip-coco-plus-800": ("sgd", 0.4, 1e-4, False, 4, "epoch", 512, 800),
    "oac-coco-200": ("sgd", 0.03, 1e-4, False, 0, "epoch", 256, 200),
    "oac-openimages-200": ("sgd", 0.015, 1e-4, False, 0, "epoch", 128, 200),
    "mocov2-openimages-200": ("sgd", 0.015, 1e-4, False, 0, "epoch", 128, 200),
    "s2r2-coco": ("sgd", 0.06, 1e-4, False, 10, "step", 128, 100),
    "s2r2-stl10": ("adam", 3e-4, 1e-6, False, 10, "step", 128, 100),
    "simclr-cifar10": ("lars", 2.0, 1e-4, True, 10, "step", 512, 1000),
    **{f"mocov2-cifar10{form}": ("sgd", 0.06, 5e-4, False, 0, "epoch", 512, 200) for form in ("", "-symmetric")},
    # the sum of two directions at half the rate and twice the decay is their mean at 0.06 and 5e-4
    **{f"byol-{data}": ("sgd", 0.03, 1e-3, False, 5, "step", 256, 200) for data in ("cifar10", "cifar100")},
    "byol-tinyimagenet": ("sgd", 0.03, 1e-3, False, 5, "step", 256, 200),
    **{
        f"{method}-{data}": ("sgd", 0.06, 5e-4, False, 5, "step", 256, 200)
        for method in ("ressl", "msf")
        for data in ("cifar10", "cifar100", "tinyimagenet")
    },
    **dict.fromkeys(MSVQ, ("sgd", 0.06, 5e-4, False, 5, "step", 256, 200)),
    "simclr-imagenet-1000": ("lars", 4.8, 1e-6, True, 10, "step", 4096, 1000),
    "simclr-imagenet-200": ("lars", 4.8, 1e-6, True, 10, "step", 4096, 200),
    "mocov2-imagenet-200": ("sgd", 0.03, 1e-4, False, 0, "epoch", 256, 200),
    "mocov2-imagenet-800": ("sgd", 0.03, 1e-4, False, 0, "epoch", 256, 800),
    "byol-imagenet-1000": ("lars", 3.2, 1.5e-6, True, 10, "step", 4096, 1000),
    "byol-imagenet-300": ("lars", 4.8, 1e-6, True, 10, "step", 4096, 300),
    "swav-imagenet-800": ("lars", 4.8, 1e-6, False, 10, "step", 4096, 800),
    "swav-imagenet-400-two-crops": ("lars", 4.8, 1e-6, False, 10, "step", 4096, 400),
    "swav-imagenet-small-batch-200": ("lars", 0.6, 1e-6, False, 0, "step", 256, 200),
    "swav-imagenet-small-batch-400": ("lars", 0.6, 1e-6, False, 0, "step", 256, 400),
    "densecl-imagenet-200": ("sgd", 0.03, 1e-4, False, 0, "epoch", 256, 200),
    "ressl-imagenet-200": ("sgd", 0.05, 1e-4, True, 5, "step", 256, 200),
    "msf-imagenet-200": ("sgd", 0.05, 1e-4, False, 0, "epoch", 256, 200),
    "msf-imagenet-200-weak": ("sgd", 0.05, 1e-4, False, 0, "epoch", 256, 200),
    "univip-imagenet-200": ("lars", 4.8, 1e-6, True, 10, "step", 4096, 200),
    "univip-imagenet-300": ("lars", 4.8, 1e-6, True, 10, "step", 4096, 300),
}

# settings of the methods
METHOD: dict[str, dict[str, Any]] = {
    "mls-coco-400": {
        "k": 20, "temperature": 0.2, "weight": 0.5, "momentum": 0.995, "width": 256, "dictionary_size": 4096,
        "reduction": "mean", "logit_bias": 0.0,
    },
    "mocov2-coco-400": {"momentum": 0.995, "dictionary_size": 4096, "width": 256, "temperature": 0.2},
    "mocov2-coco-800": {"momentum": 0.999, "dictionary_size": 65536, "width": 128, "temperature": 0.2},
    "densecl-coco-800": {
        "momentum": 0.999, "dictionary_size": 65536, "width": 128, "temperature": 0.2, "weight": 0.5, "warmup": 0,
    },
    "simclr-coco-800": {"temperature": 0.1, "hidden": 2048, "width": 128, "augmentation": "simclr"},
    "byol-coco-800": {"momentum": 0.99, "momentum_schedule": "cosine", "hidden": 4096, "width": 256},
    "univip-coco-800": {
        "instances": 4, "scene_instance_weight": 1, "instance_weight": 1, "instance_head": "linear",
        "instance_aug": "independent", "regression": "neg_cosine", "marginal_norm": "sum1", "marginal_features": "raw",
        "epsilon": 0.1, "iterations": 50, "momentum": 0.99, "momentum_schedule": "cosine", "hidden": 4096, "width": 256,
    },
    "univip-imagenet-200": {"instances": 4, "regression": "neg_cosine", "momentum": 0.99},
    "oac-coco-200": {"momentum": 0.999, "dictionary_size": 65536, "width": 128, "temperature": 0.2},
    "oac-openimages-200": {
        "momentum": 0.999, "dictionary_size": 65536, "width": 128, "temperature": 0.2, "heads": "shared",
        "symmetric": False,
    },
    "simclr-cifar10": {"temperature": 0.5, "augmentation": "simclr-cifar"},
    "mocov2-cifar10": {
        "temperature": 0.1, "momentum": 0.99, "dictionary_size": 4096, "width": 128, "augmentation": "moco-cifar",
    },
    "ressl-cifar100": {"temperature": 0.1, "teacher_temperature": 0.04, "momentum": 0.99, "dictionary_size": 4096},
    "ressl-tinyimagenet": {"teacher_temperature": 0.04, "momentum": 0.996, "dictionary_size": 16384, "width": 128},
    "byol-cifar10": {"momentum": 0.99, "momentum_schedule": "constant", "hidden": 2048, "width": 128},
    "byol-tinyimagenet": {"momentum": 0.996, "momentum_schedule": "constant"},
    "msf-cifar10": {
        "k": 5, "momentum": 0.99, "dictionary_size": 4096, "search": "before", "symmetric": True, "hidden": 2048,
        "query": "msvq-strong", "key": "msvq-weak",
    },
    "msf-tinyimagenet": {"k": 5, "momentum": 0.996, "dictionary_size": 16384},
    "byol-imagenet-1000": {"momentum": 0.996, "hidden": 4096, "width": 256},
    "byol-imagenet-300": {"momentum": 0.99},
    "swav-imagenet-800": {
        "prototypes": 3000, "epsilon": 0.05, "temperature": 0.1, "iterations": 3, "small_crops": 6,
        "dictionary_size": 0,
    },
    "swav-imagenet-400-two-crops": {"small_crops": 0, "dictionary_size": 0},
    "swav-imagenet-small-batch-400": {"dictionary_size": 3840, "queue_epochs": 15, "small_crops": 6},
    "ressl-imagenet-200": {"dictionary_size": 131072, "momentum": 0.999, "hidden": 4096, "width": 512, "weak": "weak"},
    "msf-imagenet-200": {"k": 5, "dictionary_size": 1024000, "hidden": 4096, "width": 512, "key": "moco"},
    "msf-imagenet-200-weak": {"k": 5, "query": "moco", "key": "weak"},
    "s2r2-stl10": {"views": 4, "relaxation": "smooth", "temperature": 0.05, "width": 128, "augmentation": "stl10"},
}  # fmt: skip

# how the views are cut, where not as usual
OVERLAP = {
    "name": "overlap", "instances": 4, "tries": 20, "min_size": 64, "max_aspect": 3, "max_iou": 0.5, "pick": "first",
}  # fmt: skip
OBJECT = {
    "name": "object", "min_side": 32, "max_aspect": 4, "limit": 10, "dilation": 0.2, "dilation_mode": "image",
    "geometry": "recommended", "context_scale": 0.2, "swap": 0.5,
}  # fmt: skip
CROPS = {
    **{f"univip-{data}": OVERLAP for data in ("coco-800", "coco-plus-800", "imagenet-200", "imagenet-300")},
    "oac-coco-200": OBJECT,
    "oac-openimages-200": OBJECT,
}

# pixels and colours of the recipes on small pictures; the others have 224 and ImageNet's
COLOURS: dict[str, tuple[int, Any]] = {
    "mocov2-cifar10": (32, CIFAR10),
    "simclr-cifar10": (32, UNIT),
    "byol-cifar100": (32, CIFAR100),
    "msf-tinyimagenet": (64, TINY),
    "s2r2-stl10": (96, UNIT),
    "mls-coco-400": (224, None),
    "swav-imagenet-800": (224, None),
}


def configuration(name: str) -> RunConfig:
    """Return the recipe's configuration for generated scenes."""
    return build(merge(recipe_tree(name), {"data": {"source": "synthetic:16"}}))


def test_the_table_of_training_has_every_recipe() -> None:
    assert set(TRAINING) == set(recipe_names())


@pytest.mark.parametrize("name", MSVQ)
def test_msvq(name: str) -> None:
    size, stem, slow, fast, teacher, rows, (mean, std) = MSVQ[name]
    tree = recipe_tree(name)
    assert tree["method"] == {
        "name": "msvq", "variant": name.split("-")[0], "momentum": slow, "second_momentum": fast,
        "temperature": 0.1, "teacher_temperature": teacher, "hidden": 2048, "width": 128,
        "dictionary_size": rows, "queue_start": "random", "mask_own_image": False,
        "strong": "msvq-strong", "weak": "msvq-weak", "shuffle": True,
    }  # fmt: skip
    assert tree["backbone"] == {"name": "resnet18", "stem": stem, "norm": "batch", "batchnorm_group": 256 // 8}
    assert (tree["data"]["size"], list(tree["data"]["mean"]), list(tree["data"]["std"])) == (size, mean, std)


@pytest.mark.parametrize("name", TRAINING)
def test_training(name: str) -> None:
    optimiser, lr, weight_decay, excluded, warmup, cosine, batch, epochs = TRAINING[name]
    config = configuration(name)
    asked = config.optimiser
    assert (config.engine.batch_size, config.engine.epochs) == (batch, epochs)
    assert (asked.name, asked.weight_decay, asked.exclude_norm_and_bias) == (optimiser, weight_decay, excluded)
    assert asked.warmup_epochs == warmup
    assert asked.schedule == {"step": "cosine", "epoch": "cosine_epoch"}[cosine]
    assert peak_learning_rate(asked, batch) == pytest.approx(lr)
    assert config.backbone.name == (
        "resnet50" if {"coco", "imagenet", "openimages"} & set(name.split("-")) else "resnet18"
    )


@pytest.mark.parametrize("name", METHOD)
def test_method(name: str) -> None:
    tree = recipe_tree(name)["method"]
    assert {setting: tree[setting] for setting in METHOD[name]} == METHOD[name]


@pytest.mark.parametrize("name", TRAINING)
def test_crops(name: str) -> None:
    assert recipe_tree(name).get("crops") == CROPS.get(name)


@pytest.mark.parametrize("name", COLOURS)
def test_pixels(name: str) -> None:
    size, colours = COLOURS[name]
    data = recipe_tree(name)["data"]
    assert data["size"] == size
    if colours is None:
        assert "mean" not in data
        assert "std" not in data
    else:
        assert (list(data["mean"]), list(data["std"])) == colours


def test_mocos_notebook_splits_512_pictures_in_8() -> None:
    assert recipe_tree("mocov2-cifar10")["backbone"]["batchnorm_group"] == 64


def test_swav_starts_at_0_3_peaks_at_4_8_and_ends_at_0_0048() -> None:
    config = configuration("swav-imagenet-800").optimiser
    steps = 800 * 312

    def rate(step: int) -> float:
        peak = peak_learning_rate(config, 4096)
        return learning_rate(config, peak=peak, step=step, steps=steps, steps_per_epoch=312)

    assert rate(0) == pytest.approx(0.3)
    assert rate(10 * 312) == pytest.approx(4.8)
    assert rate(steps) == pytest.approx(0.0048)


@pytest.mark.parametrize(
    ("name", "images", "steps"),
    [("swav-imagenet-800", 1_281_167, 313), ("swav-imagenet-small-batch-200", 1_281_167, 5005)],
)
def test_swavs_prototypes_rest_for_the_published_steps(name: str, images: int, steps: int) -> None:
    tree = recipe_tree(name)
    per_epoch = images // tree["engine"]["batch_size"]
    resting = sum(step < tree["method"]["freeze_epochs"] * per_epoch for step in range(2 * per_epoch))
    assert resting == steps
