"""Commands that look after keeperd itself: check, verify, plugins, config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from keeperd import terminal
from keeperd.commands.setup import JsonOption, setup_of
from keeperd.exits import FAILURE
from keeperd.finding import Finding

PANEL = "Look after it"

plugins_app = typer.Typer(no_args_is_help=True, help="What is installed.")
config_app = typer.Typer(no_args_is_help=True, help="The configuration.")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (check, verify):
        app.command(rich_help_panel=PANEL)(command)
    app.add_typer(plugins_app, name="plugins", rich_help_panel=PANEL)
    app.add_typer(config_app, name="config", rich_help_panel=PANEL)


# --- findings -------------------------------------------------------------------------------------


def check(context: typer.Context, as_json: Annotated[bool, JsonOption] = False) -> None:
    """Will it work? Configuration, folders, permissions, models, plugins; nothing is changed."""
    from keeperd import check as checks

    setup = setup_of(context)
    _tell(checks.check(setup.settings, setup.config_path), as_json=as_json)


def verify(
    context: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what is safe; no daemon may run.")
    ] = False,
    as_json: Annotated[bool, JsonOption] = False,
) -> None:
    """Is everything on disk whole? Versions, `live`, batches, the ledger, what crashes left."""
    from keeperd import repair as repairs

    setup = setup_of(context)
    with ExitStack() as stack:
        if repair:
            stack.enter_context(setup.writing())
        db = stack.enter_context(setup.reading())
        daemon = not repair and setup.daemon_runs()
        _tell(repairs.verify(db, setup.paths, daemon=daemon), as_json=as_json, repair=repair)


def _tell(findings: Iterator[Finding], *, as_json: bool, repair: bool = False) -> None:
    """A line a finding, as it comes; exit 1 when something is wrong and stays so."""
    console, told, failed = terminal.console(), [], False
    for finding in findings:
        repaired = repair and finding.repair is not None
        if finding.repair is not None and repaired:
            finding.repair()
        failed = failed or (finding.level == "wrong" and not repaired)
        told.append({**finding.to_json(), "repaired": repaired})
        if not as_json:
            console.print(terminal.finding(finding, repaired=repaired), soft_wrap=not console.is_terminal)
    if as_json:
        terminal.show_json(told)
    if failed:
        raise typer.Exit(FAILURE)


# --- plugins --------------------------------------------------------------------------------------


@plugins_app.command("list")
def plugins_list(context: typer.Context, as_json: Annotated[bool, JsonOption] = False) -> None:
    """All plugins: kind, name, where from. None of them is loaded."""
    from dataclasses import asdict

    from keeperd import plugins

    found = plugins.installed(setup_of(context).plugin_folder())
    if as_json:
        terminal.show_json([asdict(info) for info in found])
        return
    table = terminal.simple_table("kind", "name", "module", "from")
    for info in found:
        source = info.source if info.sha256 is None else f"{info.source}, sha256 {info.sha256}"
        table.add_row(*(terminal.text(value) for value in (info.kind, info.name, info.module, source)))
    terminal.show(table)


# --- configuration --------------------------------------------------------------------------------


@config_app.command("schema")
def config_schema() -> None:
    """The JSON schema of the configuration file, with a description of every option."""
    from keeperd.config import Settings

    terminal.show_json(Settings.model_json_schema())


@config_app.command("show")
def config_show(context: typer.Context, as_json: Annotated[bool, JsonOption] = False) -> None:
    """The configuration in force: every option, defaults included, as TOML."""
    settings = setup_of(context).settings.model_dump(mode="json")
    if as_json:
        terminal.show_json(settings)
        return
    for key, value in _flat(settings):
        print(f"# {key} is not set" if value is None else f"{key} = {_toml(value)}")


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables."""
    for key, value in table.items():
        name = above + (key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key))
        if isinstance(value, Mapping):
            yield from _flat(value, name + ".")
        else:
            yield name, value


def _toml(value: object) -> str:
    """A value as TOML: JSON says the same of strings, numbers, truth and lists of them."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
