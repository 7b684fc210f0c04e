"""The generators of proposals by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from scenewise.errors import UserError, unknown_name
from scenewise.proposals.base import Generator, Proposals
from scenewise.proposals.bing import Bing
from scenewise.proposals.grid import Grid
from scenewise.proposals.random_boxes import RandomBoxes
from scenewise.proposals.selective_search import MIN_WORKING_SIZE, MODES, WORKING_SIZE, SelectiveSearch
from scenewise.proposals.table import FIELD, Table

__all__ = ["GENERATORS", "Generator", "Proposals", "check_options", "make_generator"]

GENERATORS = MappingProxyType(
    {
        SelectiveSearch.name: "regions that grow together (selective search); no labels, no model: the default",
        Bing.name: "windows by gradients (BING); quick, but its model was trained on boxes of VOC 2007: --bing-model",
        RandomBoxes.name: "random places, of the sizes of another file's boxes (--like): the control",
        Grid.name: "regular windows, large to small: the control that draws nothing",
    }
)


# option -> the generator that takes it
USERS = MappingProxyType(
    {
        "bing_model": Bing.name,
        "like": RandomBoxes.name,
        "mode": SelectiveSearch.name,
        "working_size": SelectiveSearch.name,
        FIELD: Table.name,
    }
)


def check_options(name: str, options: Mapping[str, object]) -> None:
    """Raise UserError for an option that is given (not None) and is for another generator than that of this name."""
    for field, value in options.items():
        if value is not None and name != USERS[field]:
            raise UserError(
                f"{field}: {str(value)!r} is for the generator {USERS[field]!r}; {name!r} has no use for it"
            )


def make_generator(
    name: str,
    *,
    bing_model: Path | None = None,
    like: Path | None = None,
    mode: str | None = None,
    working_size: int | None = None,
) -> Generator:
    """Return the generator of that name; UserError for an unknown one, or for what it cannot work with.

    bing_model: the folder of BING's model files (bing only, needed). like: the proposal file whose box sizes are drawn
    (random only). mode, working_size (0: the full photo): see `SelectiveSearch` (selective-search only).
    """
    if name not in GENERATORS:
        raise UserError(unknown_name("generator", name, GENERATORS))
    check_options(name, {"bing_model": bing_model, "like": like, "mode": mode, "working_size": working_size})
    if name == Bing.name:
        if bing_model is None:
            raise UserError("bing_model: 'bing' needs the folder of its model files; add --bing-model FOLDER")
        return Bing(bing_model)
    if name == RandomBoxes.name:
        return RandomBoxes(like)
    if name == Grid.name:
        return Grid()
    if working_size and working_size < MIN_WORKING_SIZE:  # here 0 says what None does there
        raise UserError(f"working_size: {working_size}; allowed: {MIN_WORKING_SIZE} pixels or more, or 0 for full size")
    return SelectiveSearch(mode or MODES[0], WORKING_SIZE if working_size is None else working_size or None)
