"""Job `export`: a candidate -> artefacts that could serve. Which of them may, `verify` finds out, in a
process of its own.

inputs: {"candidate": folder, "manifest": its sha256, or absent}
out: onnx/ with the artefacts, artefacts.json with their names and hashes
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

from keeperd import versions
from keeperd.api import JSON, Exporter, PluginError, Task
from keeperd.inference import runtime
from keeperd.jobs import Job
from keeperd.paths import write_durably


def run(job: Job) -> dict[str, JSON]:
    """Export the candidate.

    Returns:
        "artefacts": file (below onnx/), precision, runs_on, mb and, under "files", the sha256 of the
        file and of each one that it names; "seconds".

    Raises:
        VersionError: the candidate is not what its manifest says.
        PluginError: it cannot be exported.
        BadInputError: an artefact names files outside its folder.
    """
    started = time.monotonic()
    candidate = Path(job.inputs["candidate"])
    versions.verify(candidate, job.inputs.get("manifest"))
    task = cast("Task[Any]", job.load("task", job.settings.task))
    exporter = cast("Exporter[Any]", job.load("exporter", job.settings.export.exporter))
    out = job.out / "onnx"
    out.mkdir(parents=True)
    job.context.progress(0.05, "loading the candidate")
    spec = task.onnx(candidate / "model", job.settings.training.max_tokens)
    made = exporter.export(spec, out, job.context)
    if not made:
        raise PluginError(f"exporter {exporter.name!r} made nothing; see its options")
    artefacts = []
    for artefact in made:
        path = out / artefact.file
        files = [path, *runtime.external_files(path)]
        artefacts.append(
            {
                "file": artefact.file,
                "precision": artefact.precision,
                "runs_on": artefact.runs_on,
                "mb": round(sum(one.stat().st_size for one in files) / 1e6, 1),
                "files": {one.relative_to(out).as_posix(): versions.sha256_file(one) for one in files},
            }
        )
    write_durably(job.out / "artefacts.json", json.dumps(artefacts, indent=1).encode())
    return {"artefacts": artefacts, "seconds": round(time.monotonic() - started, 1)}
