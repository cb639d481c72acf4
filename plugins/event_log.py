"""Hook "event-log": every event as one JSON line in `events.jsonl` of the plugin's own folder.

For log shippers and for authors: the smallest plugin that hears events. An event that is told
again after a crash has the same "id".
"""

from __future__ import annotations

import json
import os

from keeperd.api import Context, Event, hookimpl


@hookimpl
def keeperd_on_event(event: Event, context: Context) -> None:
    """Append the event."""
    line = json.dumps(
        {
            "id": event.id,
            "at": event.at.isoformat(),
            "model": event.model,
            "cycle": event.cycle,
            "kind": event.kind,
            "why": event.why,
            "facts": dict(event.facts),
        },
        allow_nan=False,
    )
    fd = os.open(context.workdir / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    with os.fdopen(fd, "ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
