"""The options of keeperd's own plugins, told from their classes."""

from __future__ import annotations

from importlib.metadata import distribution
from typing import Any

from _options import option, option_table

from keeperd import plugins
from keeperd.api import ENTRY_POINT_GROUP, Component

HEAD = """\
# Options of the plugins that come with keeperd

A model's plugins are configured in `[model.NAME.options.PLUGIN]`, a notifier in
`[notify.NAME.options]`. `keeperd plugins list` shows what is installed, others' plugins too.
"""


def page() -> str:
    """docs/plugin-options.md: each component with its options."""
    parts = [HEAD]
    for component in sorted(_components(), key=lambda one: (one.kind, one.name)):
        doc = " ".join((component.__doc__ or "").strip().split("\n\n")[0].split())
        options = tuple(option(name, field) for name, field in component.Options.model_fields.items())
        table = option_table(options) if options else "No options.\n"
        parts.append(f"## {component.kind} `{component.name}`\n\n{doc}\n\n{table}")
    return "\n".join(parts)


def _components() -> list[type[Component[Any]]]:
    """Of keeperd's own distribution alone: what else is installed differs from machine to machine."""
    points = distribution("keeperd").entry_points.select(group=ENTRY_POINT_GROUP)
    own = {point.value for point in points}
    infos = [info for info in plugins.installed() if info.module in own and info.kind != plugins.HOOK]
    answers = [answer for info in infos for answer in plugins.register(info).hook.keeperd_components()]
    return [component for answer in answers for component in answer]
