"""The configuration, told from the field descriptions of `keeperd.config`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from keeperd import config

SAMPLES: dict[str, Any] = {
    "daemon.plugins": Path("/etc/keeperd/plugins"),
    "model.base": Path("/srv/models/base"),
    "model.bootstrap": Path("/srv/models/labelled.jsonl"),
    "model.watch": [Path("/srv/incoming")],
    "model.schedule": "0 3 * * *",
    "gate.golden": Path("/etc/keeperd/golden.jsonl"),
    "notify.plugin": "smtp",
}
"""What stands in the file for an option that has no default."""

PLUGIN_OPTIONS = {"model.options": "two-sample", "notify.options": ""}
"""Tables that a plugin defines; in the file they are empty."""


@dataclass(frozen=True)
class Option:
    """One option as people see it."""

    name: str
    kind: str
    default: str
    """As TOML; "" when there is none."""
    sample: str
    """As TOML: the default, or where there is none, something that would be accepted."""
    required: bool
    meaning: str


@dataclass(frozen=True)
class Section:
    """A table of the file. `path` has NAME where the operator chooses a name."""

    path: str
    meaning: str
    options: tuple[Option, ...]


def sections(table: type[BaseModel] = config.Settings, path: str = "") -> Iterator[Section]:
    """The table and the tables below it, in the order of the classes."""
    here = path.removesuffix(".NAME").rpartition(".")[2]
    inner: list[tuple[type[BaseModel], str]] = []
    options = []
    for name, field in table.model_fields.items():
        below = f"{path}.{name}".removeprefix(".")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner.append((field.annotation, below))
        elif (many := _named_tables(field)) is not None:
            inner.append((many, f"{below}.NAME"))
        elif f"{here}.{name}" not in PLUGIN_OPTIONS:
            options.append(option(name, field, SAMPLES.get(f"{here}.{name}")))
    yield Section(path, (table.__doc__ or "").strip(), tuple(options))
    for one, below in inner:
        yield from sections(one, below)


def _named_tables(field: FieldInfo) -> type[BaseModel] | None:
    """Of `dict[str, Model]` the model."""
    if get_origin(field.annotation) is dict:
        value = get_args(field.annotation)[1]
        if isinstance(value, type) and issubclass(value, BaseModel):
            return value
    return None


def option(name: str, field: FieldInfo, sample: Any = None) -> Option:
    """One option from its field."""
    default = field.get_default(call_default_factory=True, validated_data={})
    required = default is PydanticUndefined
    meaning = field.description or ""
    if required or default is None:
        shown = "" if sample is None else value(sample)
        return Option(name, kind(field), "", shown, required, meaning)
    shown = value(default, size=_is_size(field))
    return Option(name, kind(field), shown, shown, required, meaning)


# --- values and types, as an operator writes them ---------------------------------------------------


def value(thing: Any, *, size: bool = False) -> str:
    """A value as TOML."""
    if isinstance(thing, timedelta):
        return json.dumps(_duration(thing))
    if size and thing:
        return json.dumps(_size(thing))
    if isinstance(thing, Path):
        return json.dumps(str(thing))
    if isinstance(thing, list | tuple):
        return "[" + ", ".join(value(one) for one in thing) + "]"
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        pairs = dataclasses.asdict(thing).items()
        return "{ " + ", ".join(f"{key} = {value(one)}" for key, one in pairs) + " }"
    if isinstance(thing, int) and thing >= 10_000:
        return f"{thing:_}"
    return json.dumps(thing, ensure_ascii=False)


def _duration(time: timedelta) -> str:
    for unit, seconds in (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60)):
        count, rest = divmod(time.total_seconds(), seconds)
        if count and not rest and not (unit == "w" and count == 1):  # "7d" reads better than "1w"
            return f"{count:g}{unit}"
    return f"{time.total_seconds():g}s"


def _size(count: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count}B"


def _is_size(field: FieldInfo) -> bool:
    return get_args(config.Size)[1] in field.metadata


def kind(field: FieldInfo) -> str:
    """The type and range of an option in words."""
    words = "size" if _is_size(field) else _words(field.annotation)
    limits = allowed(field)
    return f"{words}, {limits}" if limits and words in {"number", "whole number"} else words


def allowed(field: FieldInfo) -> str:
    """What values a number may have, in words; "" where all are fine."""
    limits = {
        name: _number(getattr(one, name)) for one in field.metadata for name in _LIMITS if hasattr(one, name)
    }
    low, high = (limits.get("ge") or limits.get("gt"), limits.get("le") or limits.get("lt"))
    if low and high:
        return f"{low} to {high}" if "ge" in limits else f"between {low} and {high}"
    if low:
        return f"{low} or more" if "ge" in limits else f"above {low}"
    return f"at most {high}" if high else ""


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


_LIMITS = ("ge", "gt", "le", "lt")
_NAMES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    timedelta: "duration",
}


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return "size" if annotation == config.Size else _words(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return " or ".join(json.dumps(part) for part in parts)
    if origin in (list, tuple):
        return "list of " + _words(parts[0])
    if dataclasses.is_dataclass(annotation) or origin is dict:
        return "table"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


# --- the two files ----------------------------------------------------------------------------------

HEAD = """\
# keeperd.toml: every option, with its default. To change one, take the "#" off its line and off
# the [table] above it. `keeperd check` tells every mistake at once.
#
# Durations: "30s", "10m", "6h", "7d", "2w". Sizes: "512KiB", "64MiB", "2GiB". Shares: 0.01 is one
# percent. `example` and `operators` are names that you choose; there may be several of each.
"""


def toml() -> str:
    """The sample configuration: every line a comment."""
    lines = [HEAD]
    for section in sections():
        path = section.path.replace("model.NAME", "model.example").replace("notify.NAME", "notify.operators")
        if path:
            lines += [f"# {section.meaning}", f"#[{path}]"]
        for one in section.options:
            lines += [f"# {_sentence(one)}", f"#{one.name} = {one.sample}"]
        lines.append("")
        if path == "notify.operators":
            lines += ["# Options of the plugin (docs/plugin-options.md)", f"#[{path}.options]", ""]
        if path == "model.example":
            lines += ["# Options of plugins, a table each (docs/plugin-options.md)"]
            lines += [f"#[{path}.options.two-sample]", ""]
    return "\n".join(lines).rstrip() + "\n"


def _sentence(one: Option) -> str:
    """The comment above an option; the type is told where its value does not show it."""
    notes = ["must be set"] if one.required else [] if one.default else ["not set by default"]
    notes += [one.kind.removeprefix("whole ").removeprefix("number, ")] if "number, " in one.kind else []
    notes += [one.kind] if one.kind.startswith('"') else []
    return one.meaning + (f" ({'; '.join(notes)})" if notes else "")


def page() -> str:
    """docs/configuration.md."""
    parts = [
        "# Configuration\n\n"
        f"One TOML file, `{config.DEFAULT_PATH}` unless `--config` names another. "
        "[`etc/keeperd.toml`](../etc/keeperd.toml) shows every option, ready to be changed. "
        "`keeperd check` tells every mistake at once; a running daemon reads the file again on "
        "`systemctl reload keeperd`, and keeps the old settings when the new ones are wrong.\n\n"
        'Durations are written `"30s"`, `"10m"`, `"6h"`, `"7d"`, `"2w"`, '
        'sizes `"512KiB"`, `"64MiB"`, `"2GiB"`. '
        "Shares are numbers from 0 to 1. Paths are absolute. Options of plugins: "
        "[plugin-options.md](plugin-options.md).\n"
    ]
    for section in sections():
        title = f"## `[{section.path}]`" if section.path else "## Top of the file"
        parts.append(f"{title}\n\n{section.meaning}\n\n{option_table(section.options)}")
    return "\n".join(parts)


def option_table(options: tuple[Option, ...]) -> str:
    """Options as a Markdown table."""
    lines = ["| option | default | type | meaning |", "|---|---|---|---|"]
    for one in options:
        default = "must be set" if one.required else f"`{one.default}`" if one.default else "not set"
        cells = (f"`{one.name}`", default, one.kind, one.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
