"""The configuration: the sample file shows every option, and every mistake is told at once."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from keeperd import config
from keeperd.config import ConfigError, Settings, load

SAMPLE = Path(__file__).parent.parent / "etc" / "keeperd.toml"

MINIMAL = """
state = "/tmp/state"
[model.news]
base = "/srv/base"
watch = ["/srv/in"]
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "keeperd.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert all(line.startswith(f"{path}: ") for line in caught.value.lines)
    return [line.removeprefix(f"{path}: ") for line in caught.value.lines]


# --- the sample file --------------------------------------------------------------------------------


def uncommented() -> str:
    """The sample with the "#" taken off every line that is not prose."""
    return re.sub(r"^#(?=[^ #\n])", "", SAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_sample_changes_nothing_as_it_is() -> None:
    assert load(SAMPLE) == Settings()


def test_the_sample_with_all_comments_taken_off_is_accepted(tmp_path: Path) -> None:
    settings = load(write(tmp_path, uncommented()))
    assert list(settings.model) == ["example"]
    assert list(settings.notify) == ["operators"]


def test_the_sample_shows_every_option() -> None:
    tables = tomllib.loads(uncommented())
    missing = list(_missing(Settings, tables, ""))
    assert missing == []


def _missing(table: type[BaseModel], shown: dict[str, Any], path: str) -> list[str]:
    names = {"model": config.Model, "notify": config.Notify}
    missing = []
    for name, field in table.model_fields.items():
        if name not in shown:
            missing.append(path + name)
        elif path == "" and name in names:
            (inner,) = shown[name].values()
            missing += _missing(names[name], inner, f"{name}.")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            missing += _missing(field.annotation, shown[name], f"{path}{name}.")
    return missing


def test_values_in_the_sample_are_the_defaults(tmp_path: Path) -> None:
    given = load(write(tmp_path, uncommented()))
    sample, default = given.model["example"], load(write(tmp_path, MINIMAL)).model["news"]
    for name in ("intake", "decide", "training", "export", "probation"):
        assert getattr(sample, name) == getattr(default, name), name
    assert given.state == Settings().state
    assert given.daemon.model_copy(update={"plugins": None}) == Settings().daemon


# --- loading ----------------------------------------------------------------------------------------


def test_the_least_that_must_be_set(tmp_path: Path) -> None:
    settings = load(write(tmp_path, MINIMAL))
    assert settings.model["news"].watch == [Path("/srv/in")]
    assert settings.model["news"].update == "drift"


def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    lines = mistakes(
        tmp_path,
        """
        nonsense = 1
        [daemon]
        rescan = "soon"
        nice = 40
        [model.news]
        watch = []
        [model.news.gate]
        margin = 2
        """,
    )
    expected = ["nonsense: unknown key", "daemon.rescan: found 'soon'", "daemon.nice: found 40"]
    expected += ["model.news.base: missing", "model.news.watch: found []", "model.news.gate.margin: found 2"]
    for start in expected:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == len(expected)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('"30s"', 30),
        ('"10m"', 600),
        ('"6h"', 21600),
        ('"7d"', 604800),
        ('"2w"', 1209600),
        ("45", 45),
        ('"1.5h"', 5400),
    ],
)
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    settings = load(write(tmp_path, f"[daemon]\nrescan = {text}\n"))
    assert settings.daemon.rescan == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "size"), [('"512KiB"', 2**19), ('"64 MiB"', 2**26), ('"1GiB"', 2**30), ("7", 7)]
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    assert load(write(tmp_path, f"[daemon]\nmemory = {text}\n")).daemon.memory == size


@pytest.mark.parametrize("text", ['"1GB"', '"-1MiB"', "-1", '"much"'])
def test_sizes_that_are_none(tmp_path: Path, text: str) -> None:
    (line,) = mistakes(tmp_path, f"[daemon]\nmemory = {text}\n")
    assert line.startswith("daemon.memory: ")


@pytest.mark.parametrize("name", ["../../etc", "News", "a b", "", "x" * 65, "-x", "a/b"])
def test_names_that_could_mean_another_place_are_refused(tmp_path: Path, name: str) -> None:
    text = f'[model."{name}"]\nbase = "/srv/base"\nwatch = ["/srv/in"]\n'
    (line,) = mistakes(tmp_path, text)
    assert "names are lower-case letters" in line


def test_relative_paths_are_refused(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, 'state = "state"\n[model.a]\nbase = "base"\nwatch = ["in"]\n')
    assert len(lines) == 3
    assert all(line.endswith("expected an absolute path") for line in lines)


def test_a_schedule_is_asked_for_where_it_is_needed(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, MINIMAL + 'update = "schedule"\n')
    assert line == 'model.news: update = "schedule" needs a schedule'


def test_a_notifier_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, MINIMAL + '[notify.ops]\nplugin = "smtp"\nmodels = ["nwes"]\n')
    assert line.endswith("notify.ops.models: no such model: nwes")


@pytest.mark.parametrize("text", [b"[daemon", b"a = 1\na = 2\n", b"\xff\xfe\x00", b"x = '\x00'"])
def test_what_is_not_toml_is_one_line(tmp_path: Path, text: bytes) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: not valid TOML: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file.*create it"):
        load(tmp_path / "nowhere.toml")
