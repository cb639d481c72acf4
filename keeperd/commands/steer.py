"""Commands that make something happen: run, init, trigger, rollback, pause, approve, reload, demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from keeperd import terminal
from keeperd.client import Client, UnreachableError
from keeperd.commands.setup import JsonOption, Setup, setup_of
from keeperd.exits import CONFIGURATION

PANEL = "Act"

ModelArgument = Annotated[str, typer.Argument(help="Name of the model.")]
CycleArgument = Annotated[int, typer.Argument(min=1, help="Number of the cycle.")]
WhyOption = Annotated[str, typer.Option("--why", help="Your reason, for the record.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    commands: tuple[Callable[..., None], ...] = (init, trigger, rollback, approve, reject, pause, resume)
    for command in commands:
        app.command(rich_help_panel=PANEL)(command)
    commands = (run, reload, demo)
    for command in commands:
        app.command(rich_help_panel="The daemon")(command)


def _say(line: str) -> None:
    terminal.console().print(terminal.text(line), soft_wrap=True)


# --- cycles ---------------------------------------------------------------------------------------


def init(context: typer.Context, model: ModelArgument, why: WhyOption = "") -> None:
    """Make version 1 from the bootstrap file and the watched folders, and show how it goes.

    Works with and without a daemon; without one, the work is done right here.
    """
    _carry_out(setup_of(context), model, "init", why)


def trigger(
    context: typer.Context,
    model: ModelArgument,
    why: WhyOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; without a daemon, do it here.")
    ] = False,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Look at new data now, whatever the schedule says."""
    setup = setup_of(context)
    if wait:
        _carry_out(setup, model, "manual", why)
        return
    with setup.desk() as desk:
        number = desk.trigger(model, "manual", why)
        daemon = isinstance(desk, Client)
    if as_json:
        terminal.show_json({"trigger": number, "daemon": daemon})
    else:
        begins = "the daemon takes it up now" if daemon else "no daemon runs; it begins when one starts"
        _say(f"{model}: trigger {number} noted; {begins}")


def rollback(
    context: typer.Context,
    model: ModelArgument,
    to: Annotated[
        int | None, typer.Option(min=1, help="The version to go back to. [default: the predecessor]")
    ] = None,
    why: WhyOption = "",
) -> None:
    """Let an earlier version serve again, at once."""
    _carry_out(setup_of(context), model, "rollback", why, to)


def _carry_out(setup: Setup, model: str, kind: str, why: str, target: int | None = None) -> None:
    from keeperd.commands.follow import carry_out

    if code := carry_out(setup, model, kind, why, target):
        raise typer.Exit(code)


# --- wishes ---------------------------------------------------------------------------------------


def approve(context: typer.Context, cycle: CycleArgument) -> None:
    """Let the version of a waiting cycle serve."""
    with setup_of(context).desk() as desk:
        desk.answer(cycle, "approve")
    _say(f"cycle {cycle}: approved")


def reject(context: typer.Context, cycle: CycleArgument) -> None:
    """Refuse the version of a waiting cycle; the champion stays."""
    with setup_of(context).desk() as desk:
        desk.answer(cycle, "reject")
    _say(f"cycle {cycle}: refused; the champion stays")


def pause(context: typer.Context, model: ModelArgument, why: WhyOption = "") -> None:
    """Begin no new cycle of this model; what serves goes on serving."""
    with setup_of(context).desk() as desk:
        desk.pause(model, why)
    _say(f"{model}: paused; `keeperd resume {model}` goes on")


def resume(context: typer.Context, model: ModelArgument) -> None:
    """Go on after a pause."""
    with setup_of(context).desk() as desk:
        desk.resume(model)
    _say(f"{model}: goes on")


# --- the daemon -----------------------------------------------------------------------------------


def run(context: typer.Context) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C."""
    from keeperd import logs
    from keeperd.daemon import Daemon

    logs.begin()
    Daemon(setup_of(context).config_path).run()


def reload(context: typer.Context) -> None:
    """Have the daemon read its configuration again; a bad one fails here and changes nothing."""
    setup = setup_of(context)
    client = Client(setup.paths.socket)
    if not client.is_up():
        raise UnreachableError(f"{client.path}: no daemon runs; the next start reads the new configuration")
    errors = client.reload()
    for line in errors:
        typer.echo(f"keeperd: {terminal.plain(line)}", err=True)
    if errors:
        raise typer.Exit(CONFIGURATION)
    _say(f"{setup.config_path}: taken")


def demo() -> None:
    """Show the whole of it in a few minutes, on made-up data in a folder of its own."""
    from keeperd.demo import main as show

    show()
