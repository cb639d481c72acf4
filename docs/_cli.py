"""The command line, told by its own help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from keeperd.cli import app
from keeperd.exits import EXIT_CODES


def page() -> str:
    """docs/cli.md."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="keeperd")
    codes = "\n".join(f"| {code} | {text} |" for code, text in EXIT_CODES.items())
    parts = ["# The command line", *_told(command, context, "keeperd")]
    parts += [f"## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}"]
    return "\n\n".join(parts) + "\n"


def _told(command: Any, context: typer.Context, name: str) -> Iterator[str]:
    """A command and the commands below it; `Any` because typer does not tell what its commands are."""
    below: dict[str, Any] = getattr(command, "commands", {})
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield f"## `{name}`\n\n{(command.help or '').strip()}\n\n```\n{usage}\n```"
    if rows := [row for one in command.params if (row := one.get_help_record(context))]:
        yield "\n".join(f"- `{names}`: {text}" for names, text in rows)
    if below:
        yield "\n".join(f"- `{name} {inner}`: {_first_line(one.help)}" for inner, one in below.items())
    for inner, one in below.items():
        yield from _told(one, typer.Context(one, info_name=inner, parent=context), f"{name} {inner}")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].replace("\n", " ")
