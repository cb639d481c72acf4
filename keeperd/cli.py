"""`keeperd`: the command line. Thin: parse, call, print; the commands are in `keeperd.commands`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from keeperd import __version__
from keeperd.api import KeeperdError
from keeperd.commands import drift, keep, look, measure, steer
from keeperd.commands.setup import Setup, find_config
from keeperd.config import ConfigError
from keeperd.exits import EXIT_CODES, exit_code, of_system
from keeperd.terminal import plain

HELP = "Unattended upgrades for text models: watch, tell drift, update, prove, swap, roll back."
EPILOG = "\n".join(["Exit codes:", *(f"{code:>4}  {text}" for code, text in EXIT_CODES.items())])
CONFIG_HELP = (
    "Configuration file; may stand anywhere. Without it: /etc/keeperd/keeperd.toml, or ./keeperd.toml."
)


class _Program(TyperGroup):
    """Takes --config anywhere, and shows expected errors as a line each; a bug keeps its traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move --config to the front, where the program itself takes it."""
        front: list[str] = []
        rest: list[str] = []
        todo = iter(args)
        for arg in todo:
            if arg == "--":
                rest += [arg, *todo]
            elif arg == "--config":
                front += [arg, *([value] if (value := next(todo, None)) is not None else [])]
            elif arg.startswith("--config="):
                front.append(arg)
            else:
                rest.append(arg)
        # Nothing but --config is no command: help, as for nothing at all.
        return super().parse_args(ctx, [*front, *rest] if rest or not args else args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            refused = of_system(error)
            if refused is None:
                raise
            _tell(refused)
        except KeeperdError as error:
            _tell(error)


def _tell(error: KeeperdError) -> NoReturn:
    """Say what is wrong, and exit with its code."""
    for line in error.lines if isinstance(error, ConfigError) else [str(error)]:
        print(f"keeperd: {plain(line)}", file=sys.stderr)
    raise typer.Exit(exit_code(error)) from error


app = typer.Typer(
    cls=_Program, help=HELP, epilog=EPILOG, no_args_is_help=True, add_completion=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"keeperd {__version__}")
        raise typer.Exit


@app.callback()
def program(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(envvar="KEEPERD_CONFIG", help=CONFIG_HELP)] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Note the options that all commands have."""
    context.obj = Setup(find_config(config))


for group in (look, steer, keep, drift, measure):
    group.register(app)


def main() -> None:
    """The program; what cannot be encoded is escaped rather than a reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="keeperd")


if __name__ == "__main__":
    main()
