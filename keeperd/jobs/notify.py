"""Job "notify": render one message and send it through one notifier.

Inputs: "notifier", "plugin", "options", "examples", "message_id", "event" (with "times" and
"first_at" where it stands for several equal ones), "story". Result: {"sent": where it went}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from keeperd import plugins, report
from keeperd.api import JSON, Notifier
from keeperd.jobs import Job


def run(job: Job) -> dict[str, JSON]:
    """Send it.

    Raises:
        NotifyError: it did not go out.
        PluginError: there is no such notifier, or it refuses its options.
    """
    inputs = job.inputs
    # With the notifier's own options: `job.load` would give it those of the model.
    notifier = plugins.load("notifier", inputs["plugin"], inputs["options"], job.plugin_folder)
    message = report.render(inputs["story"], inputs["event"], examples=bool(inputs["examples"]))
    message = replace(message, id=inputs["message_id"])
    return {"sent": cast("Notifier[Any]", notifier).send(message, job.context)}
