"""The command line, told by its own help."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from keeperd.cli import app


def page() -> str:
    """docs/cli.md."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="keeperd")
    text: str = get_docs_for_click(obj=command, ctx=context, name="keeperd", title="The command line")
    return text.strip() + "\n"
