"""Weights of other projects: under which names each keeps its backbone, and how they become timm's.

Files are read as tensors and plain values only (`weights_only=True`). `torch.serialization.add_safe_globals`, which
lets classes of a stranger's file back in, is not used: a checkpoint that pickles its options (argparse.Namespace,
omegaconf, whole modules) is refused, and its state dict has to be saved alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from scenewise.backbones.foreign_styles import (
    LIGHTLY_OWN,
    MOCO_V3,
    PLAIN,
    STYLES,
    TEACHER,
    WITH_BACKBONE,
    WRAPPERS,
    Style,
    Where,
)
from scenewise.errors import UserError

Table = Mapping[str, Tensor]
COUNTERS = "num_batches_tracked"  # files older than torch 0.4.1 lack them; they play no part in evaluation
_COMMON = ("backbone.", "encoder.")  # prefixes that may be any model's, unless something else says whose
_PART = 10  # a tenth of a network's entries, in one place, is that network: a projector's norm.weight alone is not
_SHOWN = 4  # groups of entries that were left out, named in a note


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
    not complete: a damaged query encoder must not give way to the key encoder beside it, nor a bare `backbone.*` to
    whatever is whole. Only what lies within it may fit better. Without such a style, that of a single prefix before all
    entries is taken, whatever it is, unless a good part of the network lies elsewhere; else the closest. Entries of a
    deeper network of the same kind count as the backbone's, so it does not fit.
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
        if named is None and (_names_its_encoder(found) or _is_bare_backbone(found, wanted)):
            named = closest = found
        elif closest is None or found.fitting(required) > closest.fitting(required):
            closest = found
    if closest is None:
        raise UserError(f"weights: {source} holds no state dict (names to tensors)")
    elsewhere = _under_any_prefix(content, wanted, required, named, source)
    damaged = named is None and _PART * closest.fitting(required) > len(required)
    return closest if elsewhere is None or damaged else elsewhere


def _readings(content: object, wanted: frozenset[str], required: frozenset[str]) -> Iterator[Found]:
    for style in STYLES:
        for where in style.where:
            table = _table(content, where)
            if table and _signed(table, style):
                beside = tuple(_beside(content, style, where))
                for prefix in style.prefixes:
                    found = _read(table, style, where, prefix, wanted, required)
                    yield replace(found, left=(*found.left, *beside))


def _names_its_encoder(found: Found) -> bool:
    """Return whether there is something under a prefix that only the evaluated encoder of its style has."""
    if not found.style.encoder or not found.present:
        return False
    if found.where == TEACHER:
        return True
    return found.prefix != "" and (found.prefix not in _COMMON or bool(found.style.signs))


def _is_bare_backbone(found: Found, wanted: frozenset[str]) -> bool:
    """Return whether something under a bare `backbone.` is called as a part of the network is."""
    if found.style is not WITH_BACKBONE or found.prefix != "backbone.":
        return False
    return not _parts(wanted).isdisjoint(_parts(found.state))


def _parts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in names)


def _table(content: object, where: Where) -> dict[str, Tensor]:
    for part in where:
        content = content.get(part) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping):
        return {}
    tensors = ((key, value) for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor))
    return {_bare(key): value for key, value in tensors}


def _beside(content: object, style: Style, where: Where) -> Iterator[str]:
    """Yield the names of the tensors of the style's whole model that lie outside the dict at `where`."""
    depth = len(style.model)
    if not depth or where[:depth] != style.model:
        return
    for part in style.model:
        content = content.get(part) if isinstance(content, Mapping) else None
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if name != where[depth]:
            yield from _names(value, str(name))


def _names(content: object, name: str) -> Iterator[str]:
    if isinstance(content, Tensor):
        yield name
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _names(value, f"{name}.{_bare(str(key))}")


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
    parts = _parts(wanted)
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
    for where in WRAPPERS if named is None else (named.where,):
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
