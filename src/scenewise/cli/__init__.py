"""The command line. Every command is a thin skin over `scenewise.api`; heavy imports wait until a command needs them.

Each group of commands has a file here, with an app of its own; `options` holds what several commands take.

Exit status: 0 done; 2 the user's input is wrong (one or two lines an error); 1 our fault (a traceback); 128 + n stopped
by signal n, after saving.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Annotated, Any

import typer

from scenewise import __version__
from scenewise.cli import handing_on, judging, lists, looking, openimages, preparing, studying, training
from scenewise.cli.options import SUBJECT
from scenewise.errors import Interrupted, UserError

USAGE_ERROR: Any = typer.BadParameter.__base__  # click's UsageError, from wherever typer has click
# seconds: of several processes the first speaks; when it dies for the same reason, torchrun ends the others
OTHERS_WAIT = 10.0
MAIN_PROCESS = os.getpid()
_SETTING = re.compile(r"(seed|[a-z][a-z0-9-]*\.[a-z0-9_]+)=")  # a dotted name and a value, as --set takes it
REPORT_BUG = "this is a fault in Scenewise, not in your input; please report it with the lines above"

app = typer.Typer(
    name="scenewise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of unlabelled photos of scenes to a vision backbone, with a figure that says what it is worth.",
    epilog=f"DATA is a folder or kind:path, for example voc:ROOT, csv:FILE, synthetic:2000. SUBJECT is {SUBJECT}.",
)
# without a name of its own a group's commands are the program's; --help lists them in this order
for group in (training, looking, preparing, judging, studying, handing_on, openimages, lists):
    app.add_typer(group.app)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"scenewise {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and stop")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = run(sys.argv[1:])
    except Terminated:  # while an error was told
        status = 128 + signal.SIGTERM
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave_others(status)
    sys.exit(status)


def _leave_others(status: int) -> None:
    """Take leave of torchrun's other processes, so that the status is what is seen of a run, however it has ended.

    A thread of the process group that outlives Python's end can abort the process (PyTorch's issue 190489). And
    torchrun ends the rest when the first process is gone: those that are leaving already need not be told.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # after a fault the others may be waiting for something that does not come; without the engine none were met
    if status != 1 and "scenewise.engine.processes" in sys.modules:
        from scenewise.engine.processes import leave

        leave()


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave in order where nothing is there to be saved (while a run trains the engine answers the signal)."""
    if os.getpid() != MAIN_PROCESS:  # a process that reads images: it has nothing to close
        os._exit(128 + number)
    raise Terminated(number)


class Terminated(BaseException):
    """The process was asked to end."""


def _repeat_set(arguments: list[str]) -> list[str]:
    """Let one --set carry several settings: `--set method.k=10 method.weight=0.1` is `--set ... --set ...`."""
    repeated: list[str] = []
    for argument in arguments:
        follows = repeated[-2:-1] == ["--set"] and _SETTING.match(argument)
        repeated += ["--set", argument] if follows else [argument]
    return repeated


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        status = app(_repeat_set(arguments), standalone_mode=False, prog_name="scenewise")
    except USAGE_ERROR as error:
        _complain(
            _with_value(error.format_message(), arguments),
            "`scenewise --help` and `scenewise COMMAND --help` list what there is",
        )
        return 2
    except UserError as error:
        _complain(*error.problems)
        return 2
    except Interrupted as error:
        return 128 + error.signal
    except Terminated:
        return 128 + signal.SIGTERM
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        _complain(REPORT_BUG)
        return 1
    return status if isinstance(status, int) else 0


def _with_value(message: str, arguments: list[str]) -> str:
    """Return the message about an option with the value it was given, which the parser leaves out."""
    option = re.search(r"'(--[\w-]+)'", message)
    if option is None or option[1] not in arguments[:-1]:
        return message
    value = arguments[arguments.index(option[1]) + 1]
    return message if repr(value) in message else f"{message} (given: {value!r})"


def _complain(*lines: str) -> None:
    if int(os.environ.get("RANK", "0")):
        time.sleep(OTHERS_WAIT)
    for line in lines:
        typer.echo(f"scenewise: {line}", err=True)
