"""Settings: what each may be stands beside it, as its type; here are these types and the one check that reads them.

A dataclass of settings (a method's Config, a region policy, a section of a run's configuration) says of every number
what it may be: with a type below, or with an `Annotated` of its own. Floats are finite everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MinLen, Unit
from pydantic import ConfigDict, TypeAdapter, ValidationError

from scenewise.errors import UserError

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]  # a momentum, a probability, an overlap
BelowOne = Annotated[float, Ge(0), Lt(1)]  # a share that leaves something of the rest
Pixels = Annotated[float, Ge(0), Unit("pixels")]  # a length
Aspect = Annotated[float, Ge(1)]  # longer side over shorter
Positives = Annotated[tuple[Positive, ...], MinLen(1)]  # to choose from
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Views = Annotated[int, Ge(1), Le(64)]  # of an image; ours: a loader makes all of them at once
ViewsOrZero = Annotated[int, Ge(0), Le(64)]

# what pydantic calls a limit that was not kept
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_WORDS = {  # how its other errors begin -> what is asked for
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "missing": "a longer list",
    "too_short": "a longer list",
    "too_long": "a shorter list",
}


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a field is read: `read(value, strict=...)`. allowed: its limits in words, empty where it has none."""

    read: Callable[..., Any]
    allowed: str


def read_fields(
    kind: type[Any], given: Mapping[str, Any], *, strict: bool = False
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the values that a dataclass's fields allow, as their types, and what is wrong with the others.

    given: field -> value; every name is one of the dataclass. Wrong: (field, "VALUE must be ...") each.
    strict: a word that could be read as a number is none.
    """
    values: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []
    for name, value in given.items():
        reader = _readers(kind)[name]  # type: ignore[arg-type] # mypy doubts that a class can be hashed
        try:
            values[name] = reader.read(value, strict=strict)
        except ValidationError as error:
            wrong += [(name, sentence) for sentence in _sentences(error, reader.allowed)]
    return values, wrong


def make_settings(section: str, kind: type[Any], given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return a dataclass made of the given fields, and all that is wrong with them, by their names in the section.

    Made of those that can be read, so that all is told at once; None where it cannot be made of these.
    """
    values, wrong = read_fields(kind, given)
    problems = [f"{section}.{name}: {sentence}" for name, sentence in wrong]
    try:
        return kind(**values), problems
    except UserError as error:
        return None, [*problems, *error.problems]


def check_fields(section: str, settings: Any) -> None:
    """Raise UserError with every field of a dataclass that is not what it may be, by its name in the section."""
    _, wrong = read_fields(type(settings), dataclasses.asdict(settings), strict=True)
    if wrong:
        raise UserError(*(f"{section}.{name}: {sentence}" for name, sentence in wrong))


def allowed_values(kind: type[Any]) -> dict[str, str]:
    """Return field -> what it may be, in words, of a dataclass of settings: its names, or the limits of its numbers."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {entry.name: _names(hints[entry.name]) or limits(hints[entry.name]) for entry in dataclasses.fields(kind)}


def limits(hint: Any) -> str:
    """Return in words what the numbers of a field's type may be ("0 to 1"); nothing where the type has no limit."""
    above = least = below = most = None
    unit = ""
    for constraint in _constraints(hint):
        match constraint:
            case Gt(gt=value):
                above = value
            case Ge(ge=value):
                least = value
            case Lt(lt=value):
                below = value
            case Le(le=value):
                most = value
            case Unit(unit=name):
                unit = f" {name}"
    if least is not None and most is not None:
        return f"{least} to {most}{unit}"
    upper = [f"below {below}"] if below is not None else [f"at most {most}"] if most is not None else []
    if least == 0 and not upper:
        return f"0{unit} or more"
    lower = [f"more than {above}"] if above is not None else [f"at least {least}"] if least is not None else []
    return " and ".join([*lower, *upper]) + (unit if lower or upper else "")


def _names(hint: Any) -> str:
    """Return the names that a field's type allows, with commas between."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(str(name) for name in inner)
    return ", ".join(filter(None, map(_names, inner)))


def _constraints(hint: Any) -> list[Any]:
    """Return what a type, and the types it is made of, are annotated with."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return [*_constraints(inner[0]), *inner[1:]]
    return [constraint for part in inner for constraint in _constraints(part)]


@functools.cache
def _readers(kind: type[Any]) -> dict[str, _Reader]:
    hints = typing.get_type_hints(kind, include_extras=True)

    def reader(hint: Any) -> _Reader:
        finite = None if dataclasses.is_dataclass(hint) else ConfigDict(allow_inf_nan=False)  # pydantic allows no other
        return _Reader(TypeAdapter(hint, config=finite).validate_python, limits(hint))

    return {entry.name: reader(hints[entry.name]) for entry in dataclasses.fields(kind)}


def _sentences(error: ValidationError, allowed: str) -> list[str]:
    """Return what pydantic found wrong with a field in our words, one sentence a value; alternatives are joined."""
    sentences: list[str] = []
    wanted: dict[str, list[str]] = {}
    told = error.errors()
    inside = [item for item in told if any(isinstance(place, int) for place in item["loc"])]  # entries of a list
    for item in inside or told:
        refused = item.get("ctx", {}).get("error")
        if isinstance(refused, UserError):  # from a validator of our own, which names what it judges
            sentences += [problem.partition(": ")[2] for problem in refused.problems]
            continue
        words = item["msg"].removeprefix("Input should be ")
        words = next((asked for start, asked in _WORDS.items() if item["type"].startswith(start)), words)
        wanted.setdefault(repr(item["input"]), []).append(allowed if item["type"] in _BOUNDS and allowed else words)
    return sentences + [f"{value} must be {' or '.join(words)}" for value, words in wanted.items()]
