"""What workers do: one module a kind of run, each with `run(job) -> result`.

A job reads its inputs, loads only the plugins that it names, writes below `job.out`, and returns
a JSON-clean result. It never touches the ledger's rows or the `live` pointer: the daemon does,
after it has seen the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from keeperd import config, paths
from keeperd.api import JSON, Component, Context


class Load(Protocol):
    """Makes a plugin component with the options that the configuration gives it."""

    def __call__(self, kind: str, name: str) -> Component[Any]:
        """The component of this kind and name."""
        ...


@dataclass(frozen=True)
class Job:
    """One run, seen from inside the worker.

    Attributes:
        kind: "intake", "assess", "train", "gate", "export", "verify", "probe", "notify", "hear".
        model: name of the model.
        folder: the run folder; `out` below it is the job's own.
        state: the state directory, to be read.
        settings: the model's configuration.
        inputs: what this kind of run is about; documented in its module.
    """

    kind: str
    model: str
    folder: Path
    state: paths.StatePaths
    settings: config.Model
    inputs: Mapping[str, JSON]
    context: Context
    load: Load
    plugin_folder: Path | None = None

    @property
    def out(self) -> Path:
        """The folder that this run may write to."""
        return self.folder / "out"

    @property
    def paths(self) -> paths.ModelPaths:
        """The model's folders."""
        return self.state.model(self.model)
