"""Weights of other projects: under which names each keeps its backbone, and how they become timm's.

Files are read as tensors and plain values only (`weights_only=True`). `torch.serialization.add_safe_globals`, which
lets classes of a stranger's file back in, is not used: a checkpoint that pickles its options (argparse.Namespace,
omegaconf, whole modules) is refused, and its state dict has to be saved alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from scenewise.errors import UserError

Table = Mapping[str, Tensor]
Where = tuple[str, ...]
COUNTERS = "num_batches_tracked"  # files older than torch 0.4.1 lack them; they play no part in evaluation
_COMMON = ("backbone.", "encoder.")  # prefixes that may be any model's, unless something else says whose
_TEACHER: Where = ("teacher",)
_SHOWN = 4  # groups of entries that were left out, named in a note
_WRAPPERS: tuple[Where, ...] = (
    (),
    ("state_dict",),
    ("model",),
    ("model_state_dict",),
    ("state_dict", "model"),
    ("model", "state_dict"),
    ("network",),
    ("net",),
)


def _as_it_is(key: str) -> str:
    return key


def _children(key: str) -> str:
    """Name an entry of `Sequential(*resnet.children())` of torchvision: ReLU and the max pool are numbers 2 and 3."""
    number, dot, rest = key.partition(".")
    return _CHILDREN.get(number, number) + dot + rest


_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def _lightly_children(key: str) -> str:
    """Name an entry of the Sequential that lightly makes of its own ResNet, which has no ReLU or pool among them."""
    number, dot, rest = key.partition(".")
    return _LIGHTLY_CHILDREN.get(number, number) + dot + rest.replace("shortcut.", "downsample.")


_LIGHTLY_CHILDREN = {"0": "conv1", "1": "bn1", "2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"}


def _openmmlab_vit(key: str) -> str:
    """Name an entry of mmpretrain's VisionTransformer (mmpretrain/models/backbones/vision_transformer.py)."""
    for pattern, ours in _OPENMMLAB_VIT:
        key = re.sub(pattern, ours, key)
    return key


_OPENMMLAB_VIT = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^(?:ln|norm)1\.", "norm."),
    (r"^layers\.(\d+)\.(?:ln|norm)([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.", "blocks."),
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a project names the entries of its backbone.

    name: of the project. prefixes: before each of the backbone's entries, one of them; `module.` of DataParallel and
    `_orig_mod.` of torch.compile are taken away before. where: the dicts around the entries, one of these ways.
    rename: from what follows the prefix to timm's name. signs: one of these begins some other entry, where several
    projects have the same prefix. encoder: which one this is where a file has several, the one that the project
    evaluates.
    """

    name: str
    prefixes: tuple[str, ...] = ("",)
    where: tuple[Where, ...] = _WRAPPERS
    rename: Callable[[str], str] = _as_it_is
    signs: tuple[str, ...] = ()
    encoder: str = ""


PLAIN = Style("timm and torchvision")
MOCO_V3 = Style("MoCo v3", ("base_encoder.",), encoder="the base encoder")
OPENMMLAB_VIT = Style(
    "mmpretrain and mmselfsup (ViT)", ("backbone.", ""), rename=_openmmlab_vit, encoder="the backbone"
)
LIGHTLY_OWN = Style("lightly (its own ResNet)", ("backbone.", ""), rename=_lightly_children)
# The first that fits is taken, so those that name an encoder come before those that any file may have.
STYLES = (
    Style("SwAV", signs=("projection_head.", "prototypes.")),
    PLAIN,
    Style("MoCo v1 and v2", ("encoder_q.",), encoder="the query encoder"),
    MOCO_V3,
    Style("DINO", ("backbone.", ""), where=(_TEACHER,), encoder="the teacher"),
    Style("DINO", ("teacher.backbone.", "teacher_backbone."), encoder="the teacher"),
    Style("DINO", ("backbone.", ""), where=(("student",),), encoder="the student, as there is no teacher"),
    Style("BYOL-pytorch", ("online_encoder.net.",), encoder="the online encoder"),
    Style(
        "PyTorch-BYOL",
        ("encoder.",),
        where=(("online_network_state_dict",),),
        rename=_children,
        encoder="the online network",
    ),
    Style(
        "VISSL",
        ("_feature_blocks.", "base_model._feature_blocks.", ""),
        where=(("classy_state_dict", "base_model", "model", "trunk"), ("model_state_dict",)),
        encoder="the trunk",
    ),
    Style(
        "lightly-train",
        tuple(
            f"{model}.{wrapper}.{part}."
            for model in ("teacher_embedding_model", "embedding_model")
            for wrapper in ("wrapped_model", "model_wrapper")
            for part in ("_features", "_model")
        ),
        encoder="the model that it exports",
    ),
    Style(
        "solo-learn", ("backbone.", "encoder."), signs=("projector.", "momentum_", "classifier."), encoder="the online"
    ),
    Style("lightly", ("backbone.", "backbone.vit."), signs=("projection_head.",), encoder="the online backbone"),
    Style(
        "OpenSelfSup, DenseCL, mmselfsup and mmpretrain",
        ("backbone.", "encoder_q.0.", "online_net.0."),
        signs=("neck.", "head.", "queue", "encoder_q.", "online_net."),
        encoder="the backbone (the query or online encoder)",
    ),
    Style("a model with a backbone", ("backbone.", "backbone.vit.", "encoder.")),
    OPENMMLAB_VIT,
    Style(
        "lightly (a Sequential of torchvision's ResNet)", ("backbone.", "encoder.", "features.", ""), rename=_children
    ),
    LIGHTLY_OWN,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A backbone found in a file.

    state: its entries under timm's names; what is named as if it belonged to it is there too, so that nothing of the
    backbone is dropped in silence. left: the other entries. complete: whether every expected entry is there. present:
    whether some entry has the prefix.
    """

    style: Style
    where: Where
    prefix: str
    state: dict[str, Tensor]
    left: tuple[str, ...]
    complete: bool
    present: bool

    def fitting(self, required: frozenset[str]) -> int:
        """Return how many of the required entries are there."""
        return len(required & self.state.keys())

    def shown(self) -> str:
        """Return the style and where its entries are, for a sentence."""
        place = ", ".join(part for part in (*self.where, self.prefix and f"{self.prefix}*") if part)
        return self.style.name + (f" ({place})" if place else "")


def find_backbone(content: object, expected: Iterable[str], *, source: str) -> Found:
    """Return the backbone in the content of a file, in the first style that has most of the expected entries.

    The first style whose evaluated encoder is named in the file decides even where that one lacks entries, and is then
    not complete: a damaged query encoder must not give way to the key encoder beside it. Only what lies within it may
    fit better. Without such a style, that of a single prefix before all entries is taken, whatever it is; else the
    closest. Entries of a deeper network of the same kind count as the backbone's, so it does not fit.
    UserError for a file without tensors, and for several encoders of which no style says the one to take.
    """
    wanted = frozenset(expected)
    required = frozenset(key for key in wanted if not key.endswith(COUNTERS))
    named = closest = None
    for found in _readings(content, wanted, required):
        if named is not None and not (found.where == named.where and found.prefix.startswith(named.prefix)):
            continue
        if 2 * found.fitting(required) > len(required):
            return found
        if named is None and _names_its_encoder(found):
            named = closest = found
        elif closest is None or found.fitting(required) > closest.fitting(required):
            closest = found
    if closest is None:
        raise UserError(f"weights: {source} holds no state dict (names to tensors)")
    return _under_any_prefix(content, wanted, required, named, source) or closest


def _readings(content: object, wanted: frozenset[str], required: frozenset[str]) -> Iterator[Found]:
    for style in STYLES:
        for where in style.where:
            table = _table(content, where)
            if table and _signed(table, style):
                yield from (_read(table, style, where, prefix, wanted, required) for prefix in style.prefixes)


def _names_its_encoder(found: Found) -> bool:
    """Return whether there is something under a prefix that only the evaluated encoder of its style has."""
    if not found.style.encoder or not found.present:
        return False
    if found.where == _TEACHER:
        return True
    return found.prefix != "" and (found.prefix not in _COMMON or bool(found.style.signs))


def _table(content: object, where: Where) -> dict[str, Tensor]:
    for part in where:
        content = content.get(part) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping):
        return {}
    tensors = ((key, value) for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor))
    return {_bare(key): value for key, value in tensors}


def _bare(key: str) -> str:
    bare = key.replace("_orig_mod.", "")
    while bare.startswith("module."):
        bare = bare.removeprefix("module.")
    return bare


def _signed(table: Table, style: Style) -> bool:
    return not style.signs or any(key.startswith(style.signs) for key in table)


def _read(
    table: Table, style: Style, where: Where, prefix: str, wanted: frozenset[str], required: frozenset[str]
) -> Found:
    named = {key: style.rename(key[len(prefix) :]) for key in table if key.startswith(prefix)}
    complete = required <= set(named.values())
    parts = {key.partition(".")[0] for key in wanted}
    # Of a file that fits, what lies beside the backbone is another matter; of one that does not, all of it is shown.
    own = {key: ours for key, ours in named.items() if not complete or ours.partition(".")[0] in parts}
    state = {ours: table[key] for key, ours in own.items()}
    return Found(style, where, prefix, state, tuple(key for key in table if key not in own), complete, bool(named))


def _under_any_prefix(
    content: object, wanted: frozenset[str], required: frozenset[str], named: Found | None, source: str
) -> Found | None:
    """Return the one encoder that is complete under some prefix; named: within which one it must be."""
    one = min(required)
    found = []
    for where in _WRAPPERS if named is None else (named.where,):
        table = _table(content, where)
        within = named.prefix if named else ""
        prefixes = sorted(key[: -len(one)] for key in table if key.endswith(f".{one}") and key.startswith(within))
        for each in prefixes:
            style = named.style if named else Style("a plain prefix", (each,))
            found.append(_read(table, style, where, each, wanted, required))
    complete = [each for each in found if each.complete]
    if len(complete) > 1:
        listed = ", ".join(f"{each.prefix}*" for each in complete)
        raise UserError(
            f"weights: {source} holds several encoders ({listed}) and nothing says which one is evaluated; save the "
            "state dict of that one alone"
        )
    return complete[0] if complete else None


def notes_on(found: Found, name: str, classifier: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was read and what was left out, a sentence each; classifier: the modules that timm calls so."""
    left = [key for key in found.left if key.rpartition(".")[0] not in classifier]
    without = ", without its classifier" if len(left) < len(found.left) else ""
    if found.style is PLAIN and not left:
        return (f"read as {name}{without}",)
    chosen = f", {found.style.encoder}" if found.style.encoder else ""
    first = f"read as {name} from the entries of {found.shown()}: {len(found.state)} used{chosen}{without}"
    if not left:
        return (first,)
    groups = Counter(_group(key, found.prefix) for key in left).most_common()
    listed = ", ".join(f"{count} of {group}" for group, count in groups[:_SHOWN])
    more = f" and {len(groups) - _SHOWN} other groups" if len(groups) > _SHOWN else ""
    return (first, f"left out {len(left)} entries: {listed}{more}; for example {left[0]}")


def _group(key: str, prefix: str) -> str:
    inside = prefix if key.startswith(prefix) else ""
    return inside + key[len(inside) :].partition(".")[0]


def check_same_network(found: Found, name: str) -> None:
    """Raise UserError for weights whose entries fit but which were trained in another network than timm's.

    MoCo v3's ViT-S has 12 heads, timm's 6 (`vit_small` in vits.py of facebookresearch/moco-v3). A Sequential of the
    children of lightly's own ResNet (`lightly.models.ResNetGenerator`) loses the ReLU behind the stem, which is no
    child. Nothing in such a file shows it, and the features would be other ones.
    """
    if found.style is MOCO_V3 and name.startswith("vit_small"):
        raise UserError(
            f"name: {name!r} has 6 attention heads, the ViT-S of MoCo v3 has 12, so its features would be wrong; "
            "its ViT-B and ResNet-50 can be read"
        )
    if found.style is LIGHTLY_OWN and found.complete:
        raise UserError(
            f"name: {name!r} has a ReLU behind its stem, the ResNet of lightly's ResNetGenerator has none, so its "
            "features would be wrong; a model made of torchvision's ResNet can be read"
        )
