"""Job "hear": tell one plugin's hook `keeperd_on_event` of one event.

Inputs: "plugin" (its name; an entry point hook.NAME or a file hook_NAME.py), "event" (a row of the
ledger). Result: {"heard": event id}.

The hook's `context.workdir` is a folder of the plugin's own that lasts, plugins/NAME in the state
directory, so that it can keep what it collects.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from keeperd import plugins
from keeperd.api import JSON, Event, PluginError
from keeperd.config import NAME
from keeperd.jobs import Job


def run(job: Job) -> dict[str, JSON]:
    """Call the hook.

    Raises:
        PluginError: there is no such plugin, or it has no such hook.
    """
    name, row = job.inputs["plugin"], job.inputs["event"]
    if not NAME.fullmatch(name):
        raise PluginError(f"{name!r} is no plugin name")
    manager = plugins.register(plugins.find(plugins.HOOK, name, job.plugin_folder))
    if not manager.hook.keeperd_on_event.get_hookimpls():
        raise PluginError(f"plugin {name!r}: has no hook keeperd_on_event")
    folder = job.state.folder / "plugins" / name
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    event = Event(
        id=row["id"],
        at=datetime.fromisoformat(row["at"]),
        model=row["model"],
        kind=row["kind"],
        why=row["why"],
        cycle=row["cycle"],
        facts=row["facts"],
    )
    manager.hook.keeperd_on_event(event=event, context=replace(job.context, workdir=folder))
    return {"heard": event.id}
