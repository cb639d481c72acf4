"""Job "intake": what is new in the watched folders becomes one frozen batch.

Inputs: "folders" (to look through), "bootstrap" (a file to take instead, or None), "champion"
(version, or None), "settle_s" and "now" (seconds), "batches" (hashes of all committed batches,
oldest first).

Writes out/batch.parquet (`rows.SCHEMA`; only where a row is new), out/files.jsonl (a line a file:
path, size, mtime_ns, inode, sha256, status "accepted", "duplicate" or "quarantined", reason, rows)
and out/quarantine.jsonl (a line a refused row or file: path, row, reason).

Result: "batch" (sha256 of the file, or None), "rows", "labelled", "holdout" (labelled rows that are
never trained on), "bad_rows", "duplicates", "near_duplicates", "leaks" (rows like golden or holdout
rows), "late_labels", "files" (accepted, duplicate, quarantined, waiting), "labels" (label -> rows),
"problems" (lines about what could not be looked at and waits).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keeperd import intake, plugins, rows, store
from keeperd.api import JSON, BadInputError
from keeperd.jobs import Job


def run(job: Job) -> dict[str, JSON]:
    """Take the files.

    Raises:
        BadInputError: the bootstrap or golden file cannot be read, or an earlier batch is damaged.
        Stopped: asked to stop.
    """
    inputs, settings = job.inputs, job.settings.intake
    readers = [info.name for info in plugins.installed(job.plugin_folder) if info.kind == "reader"]
    protected = intake.Protected(_protected_texts(job, readers))
    job.out.mkdir(exist_ok=True)
    bootstrap = inputs["bootstrap"]
    with store.open_readonly(job.state.database) as ledger:
        known = ledger.known_files(job.model)
        if bootstrap:
            found = intake.Scan([intake.found_by_operator(Path(bootstrap))])
        else:
            found = intake.scan(inputs["folders"], known, inputs["now"], inputs["settle_s"])
        return intake.freeze(
            found,
            settings=settings,
            rows=intake.FileRows(settings, readers, job.load),
            known=known,
            batches=[job.paths.batch(sha) for sha in inputs["batches"]],
            protected=protected,
            out=job.out,
            context=job.context,
            sources=_sources(inputs["folders"]),
        )


def _sources(folders: Sequence[str]) -> dict[str, str]:
    """What rows of each watched folder have as their source: its name, or its path where two have the
    same name. With one folder they have none."""
    names = [Path(folder).name for folder in folders]
    if len(names) < 2:
        return {}
    return {
        folder: name if names.count(name) == 1 else folder
        for folder, name in zip(folders, names, strict=True)
    }


def _protected_texts(job: Job, readers: list[str]) -> list[str]:
    """Texts of the golden set and of the champion's holdout."""
    texts: list[str] = []
    if golden := job.settings.gate.golden:
        table, _ = intake.read_file(golden, job.settings.intake, job.load, readers)
        texts += table.column("text").to_pylist()
    if (champion := job.inputs["champion"]) is not None:
        holdout = job.paths.version(champion) / "holdout.parquet"
        if not holdout.is_file():
            raise BadInputError(f"{holdout}: missing; run `keeperd verify`")
        texts += rows.read([holdout], ["text"]).column("text").to_pylist()
    return texts
