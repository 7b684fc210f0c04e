"""The Python interface mirrors the command line, and its names are there to stay."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from typer.main import get_group

import scenewise
from scenewise import api, cli
from scenewise.cli import lists, openimages
from scenewise.engine.config import build, flatten
from scenewise.errors import UserError

# the commands that only print what there is, or write a list, are no functions
COMMANDS = {
    name: command.callback
    for name, command in get_group(cli.app).commands.items()
    if command.callback is not None and command.callback.__module__ not in (lists.__name__, openimages.__name__)
}
ONLY_COMMAND = {"settings", "json_file"}  # written as text there
ONLY_PYTHON = {"settings", "display"}


def test_the_public_names() -> None:
    assert sorted(scenewise.__all__) == dir(scenewise)
    assert {*COMMANDS, "load_backbone"} == set(api.__all__)
    assert {*api.__all__, "UserError", "__version__"} == set(scenewise.__all__)
    for name in scenewise.__all__:
        assert getattr(scenewise, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        scenewise.__getattr__("pretrian")


@pytest.mark.parametrize(
    "before", ["", "scenewise.load_backbone", "import scenewise.evaluate.metrics", "from scenewise import evaluate"]
)
def test_evaluate_is_a_function_and_a_package_in_any_order(before: str) -> None:
    code = f"""
import inspect, scenewise
{before}
for _ in range(2):
    try:
        scenewise.evaluate("random:resnet18", data="no-such-folder")
    except scenewise.UserError:
        pass
from scenewise.evaluate.metrics import average_precision
assert "protocol" in inspect.signature(scenewise.evaluate).parameters
assert callable(scenewise.evaluate) and scenewise.evaluate.metrics.average_precision is average_precision
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_is_light() -> None:
    code = "import sys, scenewise; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_has_its_commands_arguments_and_defaults(name: str) -> None:
    command, function = (inspect.signature(known[name]).parameters for known in (COMMANDS, vars(api)))
    of_json = {"overwrite"} if name == "evaluate" else set()  # of the file that `json_file` names
    assert set(command) - ONLY_COMMAND - of_json == set(function) - ONLY_PYTHON
    for argument in set(command) & set(function) - ONLY_PYTHON:
        flag, default = command[argument].default, function[argument].default
        if flag in (inspect.Parameter.empty, ...):
            assert default is inspect.Parameter.empty
        elif argument == "protocol":
            assert flag.split(",") == list(default)
        else:
            assert str(flag) == str(default), argument


def test_every_flag_is_a_setting() -> None:
    settings = flatten(build({"data": {"source": "photos"}, "method": {"name": "mls"}}))
    assert set(api.FLAGS.values()) <= set(settings)
    with pytest.raises(UserError, match="no such argument"):
        api.configuration_tree(flags={"learning_rate": 1})
