"""`ridgeline machines`: the shipped descriptions, one in full, and the calibration of this one."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.options import Threads

if TYPE_CHECKING:
    from ridgeline.machines import Machine

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, show and calibrate machines.",
)


@app.command("list")
def list_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array on stdout, nothing else.")
    ] = False,
) -> None:
    """List every machine that --machine takes, with its datasheet rates.

    ridgeline machines list
    """
    from ridgeline.machines import load, names
    from ridgeline.report.console import console_on
    from ridgeline.report.machines import machines_json, print_machines

    found = [load(name) for name in names()]
    if as_json:
        print(machines_json(found))
        return
    print_machines(console_on(sys.stdout), found)


@app.command("show")
def show_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An id, a short name, 'this', or a TOML file.")
    ],
    as_toml: Annotated[
        bool, typer.Option("--toml", help="The description itself, as a file of your own starts.")
    ] = False,
) -> None:
    """Show one machine: both ceilings of every rate, and where each number is from.

    ridgeline machines show H100

    ridgeline machines show H100 --toml > mine.toml
    """
    from ridgeline.machines import load, to_toml
    from ridgeline.report.console import console_on
    from ridgeline.report.machines import print_machine

    machine = load(name)
    if as_toml:
        print(to_toml(machine), end="")
        return
    print_machine(console_on(sys.stdout), machine)


@app.command("calibrate")
def calibrate_command(
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="About how long it may take.")] = 45.0,
) -> None:
    """Measure this machine once; --machine this then stands for it.

    ridgeline machines calibrate
    """
    from ridgeline.machines import save_this
    from ridgeline.machines.calibrate import calibrate
    from ridgeline.machines.registry import require_this_place
    from ridgeline.report.console import console_on
    from ridgeline.report.machines import print_machine

    require_this_place()
    machine: Machine = calibrate(threads=threads, seconds=seconds, progress=_show_progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"saved: {save_this(machine)}", file=sys.stderr)
    print_machine(console_on(sys.stdout), machine)


def _show_progress(what: str, share: float) -> None:
    """One line on stderr that is written over; nothing where stderr is no terminal."""
    if sys.stderr.isatty():
        print(f"\r{share:4.0%} {what:<60.60}", end="", file=sys.stderr, flush=True)
