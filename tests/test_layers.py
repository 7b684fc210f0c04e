"""The shape of the package: who may import whom, and names that say nothing."""

import ast
from pathlib import Path

import pytest
from importlinter.api import read_configuration
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "scenewise"
EMPTY_NAMES = {"utils", "util", "helpers", "common", "misc"}


def imported(file: Path) -> set[str]:
    """Return the full names of the modules a file imports (the package uses absolute imports only)."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import in line {node.lineno}"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_every_part_of_the_package_has_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    contracts = read_configuration()["contracts_options"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}
    entries = [entry for entry in PACKAGE.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()]
    parts = {f"scenewise.{entry.stem}" for entry in entries if not entry.stem.startswith("__")}
    assert parts - named == set()


def test_no_method_imports_another() -> None:
    methods = {file.stem: file for file in (PACKAGE / "methods").glob("*.py") if file.stem not in ("__init__", "base")}
    assert methods
    for name, file in methods.items():
        others = {f"scenewise.methods.{other}" for other in methods if other != name}
        assert imported(file) & others == set(), name


def test_no_module_is_named_for_nothing() -> None:
    assert [path for path in PACKAGE.rglob("*") if path.stem in EMPTY_NAMES] == []
