"""The reference window of a version, kept as each detector's statistics.

`reference/DETECTOR/values.json` and `arrays.safetensors` below a version hold what the detector's
`fit` returned; `reference/sources.json` names the sources that have statistics of their own, and
`reference/sources/0/DETECTOR/` and so on hold these; `reference/holdout.safetensors` holds the version's
answers to its holdout. Reference and windows must be predicted by one and
the same artefact: two runtimes differ a little, and that must not look like drift.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keeperd import rows
from keeperd.api import BadInputError, Component, Context, Detector, Prediction, Statistics, Window
from keeperd.drift import sources

if TYPE_CHECKING:
    import pyarrow as pa

    from keeperd.config import Decide

LARGEST = 32 * 2**20
"""Most bytes of one detector's arrays; statistics are meant to be a few megabytes."""
LEAST_UNTRAINED = 100
VALUES, ARRAYS = "values.json", "arrays.safetensors"
SOURCES = "sources"
HOLDOUT = "holdout.safetensors"


def detectors(decide: Decide) -> list[str]:
    """Names of all detectors that need statistics: those that decide, and the one that reports."""
    return list(dict.fromkeys([*decide.detectors, *([decide.report] if decide.report else [])]))


def window(table: pa.Table) -> Window:
    """The rows of a reference table that no training has seen (held out, or never labelled), where
    there are at least `LEAST_UNTRAINED`; else all of them. A model tends to be surer of rows that it
    was trained on; next to them a new window that is like them could seem to have drifted."""
    import pyarrow.compute as pc

    untrained = table.filter(
        pc.or_(pc.is_null(table.column("label")), pc.equal(table.column("split"), "holdout"))
    )
    return rows.window(untrained if len(untrained) >= LEAST_UNTRAINED else table)


def save_statistics(folder: Path, statistics: Statistics) -> None:
    """Write statistics into a new folder; the caller makes them durable.

    Raises:
        BadInputError: they are too large, or hold what is neither JSON nor an array.
    """
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(array) for name, array in statistics.arrays.items()}
    size = sum(array.nbytes for array in arrays.values())
    if size > LARGEST:
        raise BadInputError(f"{folder.name}: statistics of {size} bytes, at most {LARGEST} are kept")
    try:
        values = json.dumps(dict(statistics.values), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{folder.name}: statistics must be plain JSON values: {error}") from error
    folder.mkdir(parents=True)
    (folder / VALUES).write_text(values, encoding="utf-8")
    save_file(arrays, folder / ARRAYS)


def load_statistics(folder: Path) -> Statistics:
    """Read them again.

    Raises:
        BadInputError: they are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values = json.loads((folder / VALUES).read_bytes())
        return Statistics(load((folder / ARRAYS).read_bytes()), values)
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInputError(f"{folder}: statistics of the reference are not readable ({error})") from error


def fit_reference(
    decide: Decide,
    load: Callable[[str, str], Component[Any]],
    reference: Window,
    out: Path,
    context: Context,
) -> None:
    """Fit detectors to the reference window and save what each one keeps below `out`.

    Args:
        reference: with the logits and embeddings of the artefact that will serve.

    Raises:
        PluginError: a detector cannot be loaded, or the window is too small for it.
    """
    for name in detectors(decide):
        save_statistics(out / name, _detector(load, name).fit(reference, context))
    own = sources.own(reference)
    parts = sources.parts(reference, own)
    for number, source in enumerate(own):
        for name in decide.detectors:
            statistics = _detector(load, name).fit(parts[source], context)
            save_statistics(out / SOURCES / str(number) / name, statistics)
    (out / f"{SOURCES}.json").write_text(json.dumps(own), encoding="utf-8")


def known_sources(folder: Path) -> list[str]:
    """Sources that have statistics of their own below a version's `reference/`.

    Raises:
        BadInputError: the list is damaged.
    """
    try:
        return [str(source) for source in json.loads((folder / f"{SOURCES}.json").read_bytes())]
    except FileNotFoundError:
        return []  # a version of an earlier release
    except (OSError, ValueError, TypeError) as error:
        raise BadInputError(f"{folder}: {SOURCES}.json is not readable ({error})") from error


def folder_of(folder: Path, detector: str, source: str) -> Path:
    """Where a detector's statistics for a source lie below a version's `reference/`."""
    if source == sources.POOLED:
        return folder / detector
    return folder / SOURCES / str(known_sources(folder).index(source)) / detector


def save_holdout(folder: Path, answers: Prediction) -> None:
    """Keep the version's answers to its labelled holdout rows, in their order, below its `reference/`: the
    rows are the same at every assessment, and need not be asked again."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {"logits": answers.logits, "embeddings": answers.embeddings}
    kept = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    save_file(kept, folder / HOLDOUT)


def load_holdout(folder: Path) -> Prediction | None:
    """What `save_holdout` kept; None where there is nothing (a version of an earlier release).

    Raises:
        BadInputError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load((folder / HOLDOUT).read_bytes())
        return Prediction(arrays["logits"], arrays["embeddings"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, SafetensorError) as error:
        raise BadInputError(f"{folder / HOLDOUT}: not readable ({error}); run keeperd verify") from error


def _detector(load: Callable[[str, str], Component[Any]], name: str) -> Detector[Any]:
    return cast("Detector[Any]", load("detector", name))
