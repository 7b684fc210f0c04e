"""Configurations as trees of sections, before anything in them is judged: read, set by dotted name, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scenewise.errors import UserError

Tree = dict[str, Any]


def read_yaml(path: Path) -> Tree:
    """Return the tree of a configuration file, read with the safe loader; raises UserError when it cannot be read."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: cannot read {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {str(path)!r} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"--config: {str(path)!r} must hold sections such as `data:` and `method:`")
    return _with_words(tree)


def _with_words(tree: Mapping[Any, Any]) -> Tree:
    """Return the tree with every key as text: YAML has keys of other types, no setting does."""
    return {str(key): _with_words(value) if isinstance(value, dict) else value for key, value in tree.items()}


def assign(tree: Tree, name: str, value: Any) -> None:
    """Set a dotted name in a tree, making the sections on the way; a mapping sets each of its entries."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            assign(tree, f"{name}.{key}", entry)
        return
    *sections, last = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {name}: {section!r} is a value, not a section")
    tree[last] = value


def flat_settings(settings: Sequence[str], *, example: str = "method.k=10") -> dict[str, Any]:
    """Return `--set name=value` arguments by dotted name; values are YAML scalars.

    example: a setting of the command, for errors. Raises UserError for all that cannot be read.
    """
    flat: dict[str, Any] = {}
    problems = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            problems.append(f"--set {setting!r}: write name=value, for example --set {example}")
            continue
        try:
            flat[name.strip()] = _scalar(text)
        except yaml.YAMLError:
            problems.append(f"--set {setting!r}: the value cannot be read")
    if problems:
        raise UserError(*problems)
    return flat


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str) and value == text.strip():  # YAML 1.1 reads 1e-4 as a word; what is quoted stays one
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(*trees: Mapping[str, Any], dropped: list[str] | None = None) -> Tree:
    """Return the trees merged section by section; later ones win.

    Another method's name drops the former method's settings, and the optimiser that was chosen for it; another region
    policy's name drops the former policy's settings. dropped: takes the dotted names of those.
    """
    merged: Tree = {}
    for tree in trees:
        gone = [section for section in ("method", "crops") if _renamed(merged, tree, section)]
        gone += ["optimiser"] if "method" in gone else []
        for section in gone:
            former = merged.pop(section, None) or {}
            if dropped is not None:
                dropped += [f"{section}.{name}" for name in former if section == "optimiser" or name != "name"]
        for key, value in tree.items():
            if not isinstance(value, Mapping):
                merged[key] = value
                continue
            merged[key] = dict(merged.get(key) or {}) | dict(value)
    return merged


def _renamed(merged: Tree, tree: Mapping[str, Any], section: str) -> bool:
    """Return whether the tree names another method, or another region policy, than what is merged so far."""
    given = tree.get(section)
    name = given.get("name") if isinstance(given, Mapping) else None
    former = merged.get(section)
    return name is not None and isinstance(former, Mapping) and former.get("name", name) != name
