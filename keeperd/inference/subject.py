"""What a verification is about: a candidate, its artefacts, and rows that it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keeperd import config, rows, versions
from keeperd.api import JSON, BadInputError, Window
from keeperd.inference import Predictor, TextEncoder, runtime

if TYPE_CHECKING:
    import pyarrow as pa

MEANT_FOR = {"any": ("tensorrt", "cuda", "cpu"), "cuda": ("tensorrt", "cuda"), "cpu": ("cpu",)}
"""`Artefact.runs_on` -> providers."""


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        candidate: the sealed folder of the train run.
        export: folder of the artefacts.
        settings: limits and providers.
        artefacts: as the export job listed them, the safest first.
        classes: names of the columns of the logits.
        encoder: the candidate's tokenizer.
        window: rows on which artefacts and torch are compared, with their labels.
        hashes: of the candidate's files and the artefacts.
    """

    candidate: Path
    export: Path
    settings: config.Export
    artefacts: list[dict[str, JSON]]
    classes: tuple[str, ...]
    encoder: TextEncoder
    window: Window
    hashes: runtime.Hashes

    def providers(self, artefact: Mapping[str, JSON]) -> list[str]:
        """Where an artefact may run here, best first; [] if nowhere."""
        fit = MEANT_FOR[artefact["runs_on"]]
        return runtime.usable([name for name in self.settings.providers if name in fit])

    def open(self, artefact: Mapping[str, JSON]) -> Predictor:
        """The artefact with the candidate's tokenizer.

        Raises:
            BadInputError: it is damaged, or changed since it was exported.
        """
        return Predictor.open(
            self.export / artefact["file"],
            self.candidate / "model",
            classes=self.classes,
            max_tokens=self.encoder.max_tokens,
            batch=self.settings.batch,
            providers=self.providers(artefact),
            hashes=self.hashes,
        )


def load(
    candidate: Path, out: Path, batches: Sequence[Path], settings: config.Export, max_tokens: int
) -> Subject:
    """Gather it all from a candidate folder that was checked, the export run's `out` and the batches.

    Raises:
        BadInputError: there is no row to compare on.
    """
    lineage = json.loads((candidate / "lineage.json").read_bytes())
    artefacts = json.loads((out / "artefacts.json").read_bytes())
    files = versions.read_manifest(candidate)["files"]
    hashes = {candidate / name: str(entry["sha256"]) for name, entry in files.items()}
    hashes |= {out / "onnx" / name: str(sha) for one in artefacts for name, sha in one["files"].items()}
    return Subject(
        candidate=candidate,
        export=out / "onnx",
        settings=settings,
        artefacts=artefacts,
        classes=tuple(lineage["classes"]),
        encoder=TextEncoder.open(candidate / "model", max_tokens, hashes),
        window=untrained(candidate / "holdout.parquet", batches, settings.verify_rows),
        hashes=hashes,
    )


def untrained(holdout: Path, batches: Sequence[Path], wanted: int) -> Window:
    """Up to `wanted` rows that were not trained on, half from the memory holdout and half from the
    batches as far as there are as many, evenly spread over the order of arrival.

    Raises:
        BadInputError: there is none.
    """
    old, new = rows.read([holdout]), rows.read(batches)
    known = set(old.column("hash").to_pylist())
    fields = zip(*(new.column(name).to_pylist() for name in ("hash", "split", "label")), strict=True)
    fresh = [
        row
        for row, (digest, split, label) in enumerate(fields)
        if digest not in known and (split == "holdout" or label is None)
    ]
    of_new = min(len(fresh), max(wanted // 2, wanted - len(old)))
    first = rows.window(_spread(old, wanted - of_new))
    second = rows.window(_spread(new.take(np.array(fresh, np.int64)), of_new))
    if not len(first) + len(second):
        raise BadInputError(f"{holdout}: no held-out row to verify an artefact on; add labelled rows")
    return Window(texts=[*first.texts, *second.texts], labels=[*first.labels, *second.labels])


def _spread(table: pa.Table, most: int) -> pa.Table:
    if len(table) <= most:
        return table
    return table.take(np.linspace(0, len(table) - 1, most).astype(np.int64))
