"""Everything that a plugin may import: component classes, value types, errors and two hooks.

A plugin is a module (or a dropped-in file) with the hook `keeperd_components`, which returns
component classes. A component has a kind (the abstract class it derives from), a `name` that the
configuration uses, and `Options`, a pydantic model of its own table there.

Nothing here imports numpy, torch or any other heavy library, so that plugins can be listed
without loading them.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Generic, TypeVar

import pluggy
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch

KEEPERD_API = 1
"""The version of this interface. Inside one number it only ever grows."""

ENTRY_POINT_GROUP = "keeperd.plugins"

hookspec = pluggy.HookspecMarker("keeperd")
hookimpl = pluggy.HookimplMarker("keeperd")

JSON = Any
"""A value that `json.dumps(value, allow_nan=False)` accepts."""


# --- errors -------------------------------------------------------------------------------------


class KeeperdError(Exception):
    """An expected error: one line that says what, where, and what to do about it."""


class PluginError(KeeperdError):
    """A plugin cannot do what it was asked, with these data or these options."""


class BadInputError(KeeperdError):
    """A file or folder is not what keeperd can take; the input is quarantined, never guessed at."""


class NotifyError(KeeperdError):
    """A message did not go out.

    Args:
        message: what happened, in one line.
        retry: False when trying again cannot help (a refused recipient, a wrong password).
    """

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


# --- text ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One document. `text` is never empty once intake has accepted the row, save for a late label
    (a row with `id` and `label` alone)."""

    text: str
    id: str | None = None
    label: str | None = None
    time: datetime | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was refused: its number in the file (from 1) and the reason in a few words."""

    number: int
    reason: str


@dataclass(frozen=True)
class Columns:
    """What the columns are called in the operator's files; readers with named columns use it."""

    text: str = "text"
    id: str = "id"
    label: str = "label"
    time: str = "time"
    source: str = "source"


@dataclass(frozen=True)
class Window:
    """Rows judged or trained on together, column by column; every column has the same length n.

    Attributes:
        texts: n documents.
        labels: n labels, None where unknown.
        times: n timestamps (aware, UTC), None where unknown.
        sources: n names of where a row came from, None where unknown.
        ids: n stable row identities (sha256 hex of the normalised text, or the operator's id).
        logits: float32 (n, classes) of the champion, or None where nothing predicted.
        embeddings: float32 (n, d) of the champion's encoder, or None where nothing embedded.
        classes: names of the columns of `logits`.
        fresh: n flags, False for rows that a detector with a state was shown at an earlier call, and
            must not count again; in the validation rows of a `TrainJob`, False for old rows.
    """

    texts: Sequence[str]
    labels: Sequence[str | None] = ()
    times: Sequence[datetime | None] = ()
    sources: Sequence[str | None] = ()
    ids: Sequence[str] = ()
    logits: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    fresh: Sequence[bool] = ()

    def __post_init__(self) -> None:
        n = len(self.texts)
        for name in ("labels", "times", "sources"):
            if not getattr(self, name):
                object.__setattr__(self, name, (None,) * n)
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(i) for i in range(n)))
        if not self.fresh:
            object.__setattr__(self, "fresh", (True,) * n)
        columns = {
            name: len(column)
            for name in ("labels", "times", "sources", "ids", "logits", "embeddings", "fresh")
            if (column := getattr(self, name)) is not None
        }
        uneven = {name: length for name, length in columns.items() if length != n}
        if uneven:
            raise ValueError(f"a window of {n} texts has columns of other lengths: {uneven}")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Window:
        """The window with only these rows, in this order."""
        return Window(
            texts=[self.texts[i] for i in rows],
            labels=[self.labels[i] for i in rows],
            times=[self.times[i] for i in rows],
            sources=[self.sources[i] for i in rows],
            ids=[self.ids[i] for i in rows],
            logits=None if self.logits is None else self.logits[list(rows)],
            embeddings=None if self.embeddings is None else self.embeddings[list(rows)],
            classes=self.classes,
            fresh=[self.fresh[i] for i in rows],
        )

    def labelled(self) -> Window:
        """The rows that have a label."""
        return self.take([i for i, label in enumerate(self.labels) if label is not None])


# --- what a component is given --------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """What a component may know of its surroundings; nothing else of keeperd is handed to it.

    Attributes:
        workdir: a folder of this run's own; it survives a retry after a kill only where
            `resume` says so.
        seed: every random choice must come from it; same seed, same result.
        device: "cpu" or "cuda".
        deadline: `time.monotonic()` seconds after which the run is stopped, or None.
        resume: a folder of checkpoints that survives a retry of the same work, or None.
        log: this run's logger; its records go into the run folder.
    """

    workdir: Path
    seed: int = 0
    device: str = "cpu"
    deadline: float | None = None
    resume: Path | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("keeperd.plugin"))
    on_progress: Callable[[float, str], None] = lambda fraction, text: None
    stop_asked: Callable[[], bool] = lambda: False

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the work is: fraction in 0..1 and a few words."""
        self.on_progress(min(max(fraction, 0.0), 1.0), text)

    def should_stop(self) -> bool:
        """True once the run should end soon: stop was asked for, or the deadline has passed.
        Long loops ask this at least once a second, save a checkpoint and raise `Stopped`."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        return late or self.stop_asked()


class Stopped(KeeperdError):  # noqa: N818 - it reports an obeyed request, not an error
    """Raised by a component that ends early because `Context.should_stop()` said so."""


class Options(BaseModel):
    """Base of every component's options: unknown keys are refused, values are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


OptionsT = TypeVar("OptionsT", bound=Options)


class Component(ABC, Generic[OptionsT]):
    """Base of all component kinds.

    A concrete class sets `name` (lower-case letters, digits, hyphens) and, where it has options,
    a nested `Options`. It is made anew for each run as `Class(options)`.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    api: ClassVar[int] = KEEPERD_API
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: OptionsT | None = None) -> None:
        self.options: OptionsT = options if options is not None else self.Options()  # type: ignore[assignment]


# --- component kinds ------------------------------------------------------------------------------


class Reader(Component[OptionsT]):
    """A file's bytes -> rows."""

    kind = "reader"
    suffixes: ClassVar[tuple[str, ...]]
    """Lower-case file endings that this reader takes, such as (".jsonl", ".ndjson"). keeperd
    itself undoes .gz and .zst first."""

    @abstractmethod
    def read(self, file: BinaryIO, columns: Columns) -> Iterator[Row | BadRow]:
        """Yield every row of a seekable binary file, bad ones as `BadRow`.

        Raises:
            BadInputError: the file as a whole cannot be read (wrong encoding, cut short).
        """


class Filter(Component[OptionsT]):
    """Rows -> rows, in between reading and freezing a batch."""

    kind = "filter"

    @abstractmethod
    def apply(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        """Pass each row on, changed or not, or a `BadRow` with the reason in its place. Bad rows
        that come in go out as they are."""


@dataclass(frozen=True)
class Statistics:
    """What a detector keeps of the reference: arrays and plain values, no object that would need
    unpickling. Stored with the version; a few megabytes at the most."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    values: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """A word, pair of words or run of characters that became more or less frequent: how clearly, in
    standard errors (positive: more frequent now), and the share of documents with it in both windows
    (0..1). At most 64 characters."""

    term: str
    z: float
    current: float
    reference: float


@dataclass(frozen=True)
class Slice:
    """A part of the rows that became more or less frequent.

    Attributes:
        name: what its rows have in common, such as a predicted class or typical words.
        kind: "predicted class" or "cluster".
        z: standard errors by which its share has moved; positive: more frequent now.
        current, reference: its share of the rows in both windows, 0..1.
        examples: ids of typical rows of it in the current window.
    """

    name: str
    kind: str
    z: float
    current: float
    reference: float
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signal:
    """One detector's result on one window.

    Attributes:
        name: what was measured, such as "text" or "predicted labels".
        drifted: the detector's own decision at its own level.
        summary: one plain sentence for people.
        p_value: probability under no drift, 0..1, or None where the detector has none.
        effect: size of the change in `effect_unit`, or None.
        effect_unit: such as "AUC" or "total variation".
        baseline: the same effect between parts of the reference itself, or None.
        words: what changed most, strongest first.
        slices: which parts of the rows changed most, strongest first.
        warning: True for a sentinel, which is told but does not count as drift.
        facts: anything else, as JSON; plugins/README.md says which have a meaning to keeperd.
    """

    name: str
    drifted: bool
    summary: str
    p_value: float | None = None
    effect: float | None = None
    effect_unit: str = ""
    baseline: float | None = None
    words: tuple[Term, ...] = ()
    warning: bool = False
    facts: Mapping[str, JSON] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()


class Detector(Component[OptionsT]):
    """Compares a window with the reference window."""

    kind = "detector"

    @abstractmethod
    def fit(self, reference: Window, context: Context) -> Statistics:
        """Statistics of the reference window; it is not shown again.

        Raises:
            PluginError: the window is too small to say anything about.
        """

    @abstractmethod
    def detect(
        self, statistics: Statistics, window: Window, state: JSON, context: Context
    ) -> tuple[list[Signal], JSON]:
        """Signals of this window, and the state to be given at the next call (None at first).

        The order of rows must not matter, and a window drawn like the reference must not drift.

        Raises:
            PluginError: the window is empty.
        """


@dataclass(frozen=True)
class TrainJob:
    """What a strategy works on.

    Attributes:
        task: the task's name, such as "text-classification".
        champion: model folder of the champion (Hugging Face layout), read-only. For a first
            version the same as `base`.
        base: model folder that the operator configured, read-only.
        first: True when there is no champion yet.
        classes: the labels that the candidate must know, the champion's first and in its order.
        new: labelled rows to learn from.
        memory: labelled old rows to replay.
        validation: labelled rows, new and old, never trained on, for choosing and early stopping;
            the gate judges on other rows.
        max_tokens: longer texts are cut to this length.
    """

    task: str
    champion: Path
    base: Path
    first: bool
    classes: tuple[str, ...]
    new: Window
    memory: Window
    validation: Window
    max_tokens: int = 128


class Strategy(Component[OptionsT]):
    """Makes a candidate from the champion and new data."""

    kind = "strategy"
    tasks: ClassVar[tuple[str, ...]]
    """Names of the tasks that it can train."""

    @abstractmethod
    def train(self, job: TrainJob, out: Path, context: Context) -> Mapping[str, JSON]:
        """Write the candidate (Hugging Face layout) into the empty folder `out`, and nothing
        anywhere else but `context.workdir` and `context.resume`. The champion stays untouched.

        Returns:
            figures of the training for people: "examples", "epochs", "train_loss", "note" ...

        Raises:
            PluginError: the rows cannot be learnt from (one class only, none at all).
            Stopped: `context.should_stop()` said so; a checkpoint lies in `context.resume`.
        """


@dataclass(frozen=True)
class Prediction:
    """Logits float32 (n, classes) and embeddings float32 (n, d), row by row."""

    logits: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class OnnxSpec:
    """How to export a model.

    Attributes:
        module: returns the tensors named in `output_names`, in evaluation mode.
        inputs: example tensors, in the order of `input_names`.
        dynamic_axes: for each input, axis number -> its name ("batch", "sequence").
    """

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]]


class Task(Component[OptionsT]):
    """A kind of model: how to load it, run it, score it and export it."""

    kind = "task"

    @abstractmethod
    def classes(self, model: Path) -> tuple[str, ...]:
        """The labels that the model folder knows, in the order of its logits; () where it has
        none yet.

        Raises:
            BadInputError: the folder is incomplete, holds a pickle or remote code, or is no
                model of this task.
        """

    @abstractmethod
    def predict(self, model: Path, texts: Sequence[str], max_tokens: int, context: Context) -> Prediction:
        """Run the model folder on texts (any number, any length) on `context.device`."""

    @abstractmethod
    def metrics(self, classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> dict[str, float]:
        """Named figures of n labelled rows; the first is the one that the gate compares. A label
        that is not in `classes` counts as an error."""

    @abstractmethod
    def scores(self, classes: Sequence[str], labels: Sequence[str], logits: np.ndarray) -> np.ndarray:
        """float64 (n,): each row's own score, 0 (wrong) .. 1 (right), whose mean is the first of
        `metrics`; for paired comparison."""

    @abstractmethod
    def onnx(self, model: Path, max_tokens: int) -> OnnxSpec:
        """What to export of the model folder."""


@dataclass(frozen=True)
class Artefact:
    """A deployable file that an exporter made: a path below the export folder, its precision
    ("fp32", "fp16", "int8") and where it is meant to run ("cpu", "cuda", "any")."""

    file: str
    precision: str
    runs_on: str = "any"


class Exporter(Component[OptionsT]):
    """A candidate -> deployable artefacts."""

    kind = "exporter"

    @abstractmethod
    def export(self, spec: OnnxSpec, out: Path, context: Context) -> list[Artefact]:
        """Write artefacts into the empty folder `out`, the plain and safest one first. Keeperd
        measures each one and keeps those that pass.

        Raises:
            PluginError: the model cannot be exported.
        """


@dataclass(frozen=True)
class Message:
    """What a notifier sends. Headers are built by keeperd from fixed templates: `subject` is one
    line of printable ASCII, at most 120 characters.

    Attributes:
        id: stable over retries, fit for a Message-ID header (without angle brackets).
        kind: the event, such as "promoted" or "rolled back".
        html: complete document without remote content; images by "cid:NAME".
        images: NAME -> PNG bytes.
    """

    id: str
    model: str
    kind: str
    subject: str
    text: str
    html: str = ""
    images: Mapping[str, bytes] = field(default_factory=dict)
    sent_at: datetime | None = None


class Notifier(Component[OptionsT]):
    """Sends one message out."""

    kind = "notifier"

    @abstractmethod
    def send(self, message: Message, context: Context) -> str:
        """Send, and say in a few words where it went. May be called again with the same message
        after a crash: at least once.

        Raises:
            NotifyError: it did not go out; `retry` says whether to try again.
        """


@dataclass(frozen=True)
class Event:
    """A committed fact, told after the fact."""

    id: int
    at: datetime
    model: str
    kind: str
    why: str
    cycle: int | None = None
    facts: Mapping[str, JSON] = field(default_factory=dict)


# --- hooks ----------------------------------------------------------------------------------------


class Hooks:
    """The two hooks of a plugin module."""

    @hookspec
    def keeperd_components(self) -> Iterable[type[Component[Any]]]:  # type: ignore[empty-body]
        """Return the component classes of this plugin."""

    @hookspec
    def keeperd_on_event(self, event: Event, context: Context) -> None:
        """Hear a committed event. Runs in a worker process of its own; what it raises is recorded
        and disturbs nobody else."""


KINDS: dict[str, type[Component[Any]]] = {
    kind.kind: kind for kind in (Reader, Filter, Detector, Strategy, Task, Exporter, Notifier)
}
