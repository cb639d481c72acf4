"""The plugin interface changes only on purpose: every public signature stands in a golden file.

`UPDATE_GOLDEN=1 make test ARGS="-k golden"` writes the file anew. Inside one KEEPERD_API lines may only
be added to it.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from keeperd import api

GOLDEN = Path(__file__).parent / "golden" / f"api-{api.KEEPERD_API}.txt"
CONSTANTS = ("KEEPERD_API", "ENTRY_POINT_GROUP")


def interface() -> list[str]:
    """A line for every name, field and signature that a plugin may use."""
    lines = [f"{name} = {getattr(api, name)!r}" for name in CONSTANTS]
    lines += [f"hook marker {name}" for name in ("hookimpl", "hookspec") if hasattr(api, name)]
    lines += [f"KINDS[{kind!r}] = {cls.__name__}" for kind, cls in api.KINDS.items()]
    for name, thing in vars(api).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != api.__name__:
            continue
        if inspect.isclass(thing):
            bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
            lines += [f"class {name}({bases})", *(f"{name}.{line}" for line in _members(thing))]
        elif inspect.isfunction(thing):
            lines.append(f"def {name}{inspect.signature(thing)}")
    return sorted(lines)


def _members(cls: type[Any]) -> Iterator[str]:
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            yield f"{field.name}: {field.type}{_default(field)}"
    else:
        for name, annotation in inspect.get_annotations(cls).items():
            if not name.startswith("_") and not (issubclass(cls, BaseModel) and name == "model_config"):
                value = f" = {cls.__dict__[name]!r}" if isinstance(cls.__dict__.get(name), str | int) else ""
                yield f"{name}: {annotation}{value}"
    for name, member in vars(cls).items():
        own_init = name == "__init__" and not dataclasses.is_dataclass(cls)
        if (name.startswith("_") and not own_init) or name in _fields(cls):
            continue
        if inspect.isfunction(member):
            abstract = "abstract " if getattr(member, "__isabstractmethod__", False) else ""
            yield f"{abstract}{name}{inspect.signature(member)}"
        elif isinstance(member, property):
            yield f"property {name}"
        elif isinstance(member, str) and name not in inspect.get_annotations(cls):
            yield f"{name} = {member!r}"


def _fields(cls: type[Any]) -> set[str]:
    """Names of a dataclass's fields; a default that is a function looks like a method otherwise."""
    return {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return " = <function>" if callable(field.default) else f" = {field.default!r}"
    return "" if field.default_factory is dataclasses.MISSING else " = <made anew>"


def test_the_plugin_interface_is_the_one_promised() -> None:
    now = interface()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(now) + "\n", encoding="utf-8")
    promised = GOLDEN.read_text(encoding="utf-8").splitlines()
    gone = sorted(set(promised) - set(now))
    assert not gone, f"plugins written for API {api.KEEPERD_API} may break; KEEPERD_API must grow: {gone}"
    added = sorted(set(now) - set(promised))
    assert not added, f"new in the interface; on purpose? Then UPDATE_GOLDEN=1: {added}"


def test_every_public_class_and_method_is_described() -> None:
    public = {name: thing for name, thing in vars(api).items() if inspect.isclass(thing) and name[0] != "_"}
    own = {name: thing for name, thing in public.items() if thing.__module__ == api.__name__}
    silent = [name for name, thing in own.items() if not thing.__doc__]
    silent += [
        f"{name}.{method}"
        for name, thing in own.items()
        for method, value in vars(thing).items()
        if inspect.isfunction(value)
        and method[0] != "_"
        and method not in _fields(thing)
        and not value.__doc__
    ]
    assert silent == []
