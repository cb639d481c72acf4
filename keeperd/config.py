"""Configuration: one TOML file -> typed settings, with every mistake told at once.

`etc/keeperd.toml` shows every option; a test compares that file with the classes here.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from keeperd.api import Columns, KeeperdError

DEFAULT_PATH = Path("/etc/keeperd/keeperd.toml")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class ConfigError(KeeperdError):
    """The configuration cannot be used. `lines` has one line a mistake."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def _duration(value: object) -> object:
    """Read "30s", "10m", "6h", "7d" or a number of seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\s*", value)
        if not match:
            raise ValueError("expected a duration such as 30s, 10m, 6h, 7d or 2w")
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
        return timedelta(seconds=float(match[1]) * unit)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return value


def _bytes(value: object) -> object:
    """Read "64MiB", "1GiB" or a number of bytes."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*(B|KiB|MiB|GiB)?\s*", value)
        if not match:
            raise ValueError("expected a size such as 512KiB, 64MiB or 2GiB")
        return int(match[1]) * {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[match[2]]
    return value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return path


Duration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(timedelta.total_seconds, when_used="json")
]
Size = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Table(BaseModel):
    """A TOML table: unknown keys are refused, settings never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Daemon(Table):
    """Settings of the daemon itself."""

    rescan: Duration = Field(
        timedelta(minutes=5), description="how often watched folders are compared with the ledger"
    )
    settle: Duration = Field(
        timedelta(seconds=2), description="a file must keep its size this long before it is read"
    )
    polling: bool = Field(
        False, description="poll the watched folders instead of using inotify (for remote file systems)"
    )
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads of a worker; 0: all cores that the daemon may use"
    )
    nice: int = Field(10, ge=0, le=19, description="niceness of workers")
    memory: Size = Field(0, description="memory limit of a worker (its data, files it maps aside); 0: none")
    retries: int = Field(3, ge=1, le=20, description="attempts at a step before the cycle is given up")
    backoff: Duration = Field(
        timedelta(seconds=30), description="wait after a failed attempt; doubles each time, at most an hour"
    )
    plugins: AbsolutePath | None = Field(
        None, description="folder of dropped-in plugin files (one .py file each)"
    )
    workers: int = Field(1, ge=1, le=64, description="workers that may run at once")
    hear: list[str] = Field([], description="plugins whose event hook is called")
    plugin_failures: int = Field(
        5,
        ge=1,
        description="failures in a row after which an event hook is left out until the next start",
    )
    keep_runs: Duration = Field(timedelta(days=14), description="how long folders of finished runs are kept")


class Intake(Table):
    """What is taken from the watched folders, and what is refused."""

    columns: Columns = Field(Columns(), description="what the columns are called in your files")
    filters: list[str] = Field(["length"], description="filter plugins, in order")
    max_file: Size = Field(2**30, description="largest file (after decompression)")
    max_ratio: int = Field(100, ge=1, description="largest ratio of decompressed to compressed size")
    max_row: Size = Field(2**20, description="largest row")
    max_rows: int = Field(2_000_000, ge=1, description="most rows in one file")
    max_files: int = Field(200_000, ge=1, description="most files in one batch; the rest waits for the next")
    near_duplicates: Share = Field(
        0.9, description="Jaccard similarity from which two texts count as the same; 1: exact only"
    )
    dedupe_rows: int = Field(1_000_000, ge=0, description="how many earlier rows new rows are compared with")
    holdout: Share = Field(0.2, description="share of labelled rows that is never trained on")


class Decide(Table):
    """When drift leads to an update: drift x harm x amount x cooldown x budget."""

    detectors: list[str] = Field(["monitor"], min_length=1, description="detector plugins")
    report: str | None = Field(
        "evidently", description="detector plugin that renders a full HTML report when there is drift"
    )
    on_drift: Literal["tell", "ask", "update"] = Field(
        "tell", description="what to do about drift of which no harm is proven; an update needs labels"
    )
    alpha: float = Field(
        0.01,
        gt=0.0,
        lt=0.5,
        description="chance of a false alarm of one check, of detectors without a budget",
    )
    min_window: int = Field(50, ge=1, description="fewer rows wait for more before they are judged")
    min_labelled: int = Field(50, ge=2, description="fewer labelled rows are not trained on")
    harm: float = Field(
        0.02, ge=0.0, le=1.0, description="loss of accuracy from which drift counts as harmful"
    )
    cooldown: Duration = Field(timedelta(hours=6), description="least time between two updates")
    updates_per_week: int = Field(7, ge=0, description="most updates in seven days; 0: no limit")
    suspect: float = Field(
        0.2,
        ge=0.0,
        le=1.0,
        description="excess disagreement of labels with the champion that makes a batch suspect; 1: never",
    )


class Training(Table):
    """How a candidate is made."""

    strategy: str = Field("full", description="strategy plugin")
    first_strategy: str = Field("retrain", description="strategy plugin for version 1")
    max_tokens: int = Field(128, ge=4, le=8192, description="longer texts are cut to this many tokens")
    memory_rows: int = Field(5000, ge=0, description="most old rows kept for replay")
    memory_share: Share = Field(0.2, description="share of the training rows seen that is kept for replay")
    holdout_rows: int = Field(
        1000, ge=20, description="most rows of the memory holdout, on which forgetting is measured"
    )
    reference_rows: int = Field(5000, ge=20, description="most rows of the reference window")
    window_rows: int = Field(20_000, ge=10, description="most new rows in one update, the newest first")
    deadline: Duration = Field(timedelta(hours=6), description="a training that takes longer is stopped")


class Gate(Table):
    """What a candidate must prove. Margins are in shares: 0.01 is one point."""

    golden: AbsolutePath | None = Field(
        None, description="file with your own test rows, never trained on; sealed by its hash"
    )
    min_old: int = Field(50, ge=10, description="fewer old test rows reject")
    min_new: int = Field(20, ge=10, description="fewer new test rows reject")
    margin: Share = Field(0.01, description="how much the candidate may lose on old rows")
    alpha: float = Field(0.1, gt=0.0, lt=0.5, description="level of the one-sided tests")
    slice_margin: Share = Field(0.1, description="how much it may lose on one label or source")
    min_slice: int = Field(20, ge=5, description="smaller slices are shown but not judged")
    flips: Share = Field(0.1, description="most old rows that turn from right to wrong")
    floor: float = Field(
        0.05, ge=0.0, le=1.0, description="how much version 1 must beat the most frequent label by"
    )


class Export(Table):
    """Which artefacts are made, and what they may differ by."""

    exporter: str = Field("onnx", description="exporter plugin")
    agreement: Share = Field(0.975, description="least share of rows with the same label as the torch model")
    max_loss: Share = Field(
        0.005, description="most accuracy that an artefact may lose against the torch model"
    )
    verify_rows: int = Field(300, ge=10, description="real rows on which an artefact is compared")
    batch: int = Field(32, ge=1, le=4096, description="batch size of the throughput measurement")
    providers: list[Literal["tensorrt", "cuda", "cpu"]] = Field(
        ["cuda", "cpu"], description="where inference runs, best first; what is missing is passed over"
    )


class Probation(Table):
    """The watch over a new champion beside its predecessor."""

    rows: int = Field(300, ge=0, description="labelled rows after which it ends; 0: by time alone")
    time: Duration = Field(timedelta(days=7), description="longest time that it takes")
    tolerance: Share = Field(0.01, description="loss against the predecessor that is still accepted")
    alpha: float = Field(0.01, gt=0.0, lt=0.5, description="chance of rolling back a good version")


class Model(Table):
    """One model under care."""

    task: str = Field("text-classification", description="task plugin")
    base: AbsolutePath = Field(description="model folder to start from (Hugging Face layout, safetensors)")
    bootstrap: AbsolutePath | None = Field(None, description="labelled file that version 1 is trained on")
    watch: list[AbsolutePath] = Field(min_length=1, description="folders watched for new text")
    update: Literal["drift", "always", "schedule", "never"] = Field("drift", description="when to update")
    schedule: str | None = Field(
        None, description='when to look, as in cron ("0 3 * * *"); needed for update = "schedule"'
    )
    approval: bool = Field(False, description="wait for `keeperd approve` before a promotion")
    seed: int = Field(0, ge=0, description="all random choices come from it")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where training runs")
    intake: Intake = Intake()
    decide: Decide = Decide()
    training: Training = Training()
    gate: Gate = Gate()
    export: Export = Export()
    probation: Probation = Probation()
    options: dict[str, dict[str, Any]] = Field({}, description="options of plugins, a table each")

    @model_validator(mode="after")
    def _schedule_given(self) -> Model:
        if self.update == "schedule" and not self.schedule:
            raise ValueError('update = "schedule" needs a schedule')
        return self


class Notify(Table):
    """One notifier: a plugin, its options, and what it is told."""

    plugin: str = Field(description="notifier plugin")
    events: list[str] = Field(
        ["drift", "ask", "promoted", "rejected", "rolled back", "failed", "suspect", "approval", "alert"],
        description="kinds of events that are sent",
    )
    models: list[str] = Field([], description="models whose events are sent; empty: all")
    examples: bool = Field(False, description="show sample texts (they may hold personal data)")
    expire: Duration = Field(
        timedelta(days=7), description="a message that could not be sent for this long is given up"
    )
    options: dict[str, Any] = Field({}, description="options of the plugin")


class Settings(Table):
    """The whole file."""

    state: AbsolutePath = Field(
        Path("/var/lib/keeperd"), description="folder of everything that keeperd writes"
    )
    daemon: Daemon = Daemon()
    notify: dict[str, Notify] = {}
    model: dict[str, Model] = {}

    @model_validator(mode="after")
    def _names(self) -> Settings:
        for name in (*self.model, *self.notify):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r}: names are lower-case letters, digits, '.', '_', '-', at most 64")
        for name, notify in self.notify.items():
            unknown = set(notify.models) - set(self.model)
            if unknown:
                raise ValueError(f"notify.{name}.models: no such model: {', '.join(sorted(unknown))}")
        return self


def load(path: Path) -> Settings:
    """Read and check the configuration.

    Raises:
        ConfigError: with one line for every mistake in the file.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            [f"{path}: cannot be read: {error.strerror}; create it or name another with --config"]
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from error
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise ConfigError([f"{path}: {line}" for line in explain(error)]) from error


def explain(error: ValidationError) -> list[str]:
    """One line a mistake: "model.x.key: found VALUE, expected ..."."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "file"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key; remove it or see `keeperd config schema`")
        elif item["type"] == "missing":
            lines.append(f"{where}: missing; it must be set")
        elif item["type"] == "value_error" and isinstance(item["input"], dict | BaseModel):
            lines.append(f"{where}: {message}")
        else:
            lines.append(f"{where}: found {item['input']!r}: {message}")
    return lines


def worker_threads(settings: Settings) -> int:
    """CPU threads that one worker may use."""
    return settings.daemon.threads or len(os.sched_getaffinity(0))
