"""The `ridgeline` command: which commands there are, and what happens when one fails.

Start-up is light: a command's own module is imported when that command is called.
"""

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from ridgeline import __version__
from ridgeline.cli.collector import leave_at_once, leave_to_the_system
from ridgeline.cli.interrupt import heard_while_loading
from ridgeline.cli.streams import prepare_streams
from ridgeline.errors import RidgelineError
from ridgeline.units import printable

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_DEBUG = "--debug"
# What torch's allocator says, in a RuntimeError, when the system gives it no more.
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"

# command -> (module, attribute, what it does). The attribute is a function or a Typer app.
_COMMANDS = {
    "inspect": (
        "inspect",
        "inspect_command",
        "What a model costs on a machine, and what bounds it.",
    ),
    "profile": (
        "profile",
        "profile_command",
        "Where the time really goes, measured on this machine.",
    ),
    "trace": (
        "trace",
        "trace_command",
        "Where the time went in what a machine recorded.",
    ),
    "trace diff": (
        "trace_diff",
        "trace_diff_command",
        "What changed between two recordings.",
    ),
    "optimize": (
        "optimize",
        "optimize_command",
        "Make the model as fast as it gets here, checked.",
    ),
    "place": (
        "place",
        "place_command",
        "Which device runs each part, when there are several.",
    ),
    "run": ("run", "run_command", "What a saved model computes."),
    "bench": ("bench", "bench_command", "How fast a saved model runs here."),
    "machines": ("machines", "app", "List, show and calibrate machines."),
    "zoo": ("zoo", "zoo_command", "List the models that come with Ridgeline."),
}


class LazyGroup(TyperGroup):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: "Context") -> list[str]:
        """Every command, in the order in which people meet them."""
        return list(_COMMANDS)

    def resolve_command(  # type: ignore[override]
        self, ctx: "Context", args: list[str]
    ) -> tuple[str | None, object, list[str]]:
        """The command that the first word names, or the first two."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in _COMMANDS else args)

    def get_command(self, ctx: "Context", cmd_name: str) -> object:  # type: ignore[override]
        """The command of that name. Raises RidgelineError with the nearest where there is none."""
        if cmd_name not in _COMMANDS:
            close = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            way_out = f"did you mean {close[0]}?" if close else f"there are {', '.join(_COMMANDS)}."
            raise RidgelineError(f"no command {cmd_name!r}; {way_out}")
        return _command(cmd_name)

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Writes the commands into the help without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


def _command(name: str) -> object:
    module_name, attribute, help_text = _COMMANDS[name]
    found = getattr(import_module(f"ridgeline.cli.{module_name}"), attribute)
    if isinstance(found, typer.Typer):
        found.info.name = name
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name=name, short_help=help_text)(found)
    command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"ridgeline {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, no_args_is_help=True)
def ridgeline(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
    debug: bool = typer.Option(False, _DEBUG, help="Show the traceback when something fails."),
) -> None:
    """A model and a machine in: how fast, where the time goes, and how to get there.

    Try: ridgeline inspect zoo:resnet50 --machine H100
    """


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 ok, 1 a check failed, 2 bad input, 130 interrupted."""
    prepare_streams()
    given = list(sys.argv[1:] if args is None else args)
    is_alone = args is None and _reads_only(given)
    with heard_while_loading(EXIT_INTERRUPTED):
        code = run(given, is_alone=is_alone)
    if code == 0 and is_alone:
        leave_at_once(code)
    leave_to_the_system()
    sys.exit(code)


def _reads_only(args: Sequence[str]) -> bool:
    """Whether this was `inspect` of something that is not the user's own code."""
    return args[:1] == ["inspect"] and not any(".py" in arg for arg in args)


def run(args: Sequence[str], *, is_alone: bool = False) -> int:
    """The exit code of one command line. Whatever fails becomes one sentence on stderr.

    is_alone: nothing but this command runs in the process; commands find it in their context.
    """
    # --debug may stand anywhere, for it is added to a line that has just failed
    is_debug = _DEBUG in args
    try:
        code = app(
            args=[a for a in args if a != _DEBUG],
            prog_name="ridgeline",
            standalone_mode=False,
            obj=is_alone,
        )
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # the reader has left, which typer turns into an exit of its own
        _drop_what_is_unwritten()
        return 0
    except typer.Abort:
        return _fail("stopped.", EXIT_INTERRUPTED)
    except Exception as error:
        if is_debug:
            traceback.print_exc()
        return _explain(error)
    if code == EXIT_INTERRUPTED:
        return _fail("stopped.", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    """Prints what went wrong and returns the exit code."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "ridgeline"
        message = error.format_message().rstrip(".")
        return _fail(f"{message}. `{path} --help` shows how.", EXIT_BAD_INPUT)
    if isinstance(error, RidgelineError):
        return _fail(str(error), EXIT_BAD_INPUT)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _drop_what_is_unwritten()
        return _fail(f"cannot write the output: {error.strerror}.", EXIT_BAD_INPUT)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return _fail(f"{str(error.filename)[:60]}…: {error.strerror}.", EXIT_BAD_INPUT)
    if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
        return _fail(
            "this machine has not the memory for it; ask for smaller sizes (--batch, --seq), or "
            "for `inspect`, which needs no weights.",
            EXIT_BAD_INPUT,
        )
    reason = (str(error).splitlines() or [""])[0]
    return _fail(
        f"unexpected {type(error).__name__}: {reason}. This is a fault in Ridgeline; "
        f"add {_DEBUG} to see where.",
        EXIT_BAD_INPUT,
    )


def _drop_what_is_unwritten() -> None:
    """Keeps Python from failing again, with an exit code of its own, when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"ridgeline: {printable(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
