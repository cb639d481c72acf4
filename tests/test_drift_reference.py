"""Statistics of the reference window on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keeperd import config, plugins, rows
from keeperd.api import BadInputError, Component, Context, PluginError, Statistics, Window
from keeperd.drift import reference, sources
from tests.conftest import labelled_texts
from tests.words import write_rows


def test_statistics_survive(tmp_path: Path) -> None:
    statistics = Statistics(
        {
            "a": np.arange(6, dtype=np.uint16).reshape(2, 3),
            "b": np.zeros(0, np.float32),
            "c": np.eye(3)[:, ::2],
        },
        {"x": [1, "ü", None, {"y": 0.5}]},
    )
    reference.save_statistics(tmp_path / "one", statistics)
    again = reference.load_statistics(tmp_path / "one")
    assert again.values == statistics.values
    assert again.arrays.keys() == statistics.arrays.keys()
    for name, array in statistics.arrays.items():
        assert np.array_equal(again.arrays[name], array) and again.arrays[name].dtype == array.dtype


@pytest.mark.parametrize(
    "statistics",
    [
        Statistics(values={"x": float("nan")}),
        Statistics(values={"x": object()}),
        Statistics({"a": np.zeros(reference.LARGEST + 1, np.uint8)}),
    ],
    ids=["nan", "object", "large"],
)
def test_what_is_not_plain_or_too_large_is_refused(tmp_path: Path, statistics: Statistics) -> None:
    with pytest.raises(BadInputError):
        reference.save_statistics(tmp_path / "one", statistics)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("name", [reference.VALUES, reference.ARRAYS])
def test_damage_is_told(tmp_path: Path, name: str) -> None:
    reference.save_statistics(tmp_path / "one", Statistics({"a": np.zeros(2)}, {}))
    (tmp_path / "one" / name).write_bytes(b"{")
    with pytest.raises(BadInputError, match="not readable"):
        reference.load_statistics(tmp_path / "one")
    (tmp_path / "one" / name).unlink()
    with pytest.raises(BadInputError, match="not readable"):
        reference.load_statistics(tmp_path / "one")


def load(kind: str, name: str) -> Component[Any]:
    return plugins.load(kind, name)


def test_all_configured_detectors_are_fitted(tmp_path: Path) -> None:
    names = reference.detectors(config.Decide())
    assert names == ["monitor", "evidently"]
    assert reference.detectors(config.Decide(report=None)) == ["monitor"]
    window = Window(labelled_texts(60)[0])
    reference.fit_reference(config.Decide(), load, window, tmp_path, Context(tmp_path))
    assert reference.known_sources(tmp_path) == []
    for name in names:
        assert reference.load_statistics(tmp_path / name).values
    with pytest.raises(PluginError, match="too little"):
        reference.fit_reference(config.Decide(), load, Window(["a"]), tmp_path / "other", Context(tmp_path))


def test_sources_are_told_apart_where_there_are_two_with_rows_enough() -> None:
    def known(**rows: int) -> list[str]:
        names = [name for name, count in rows.items() for _ in range(count)]
        return sources.own(Window(["text"] * len(names), sources=names))

    assert known(mail=300, web=250, fax=20) == ["mail", "web"]
    assert known(mail=300, fax=20) == ["mail"] and known(mail=500) == []
    assert sources.own(Window(["text"] * 400)) == []
    parts = sources.parts(Window(["a", "b", "c"], sources=["web", None, "fax"]), ["web"])
    assert {name: list(part.texts) for name, part in parts.items()} == {"": ["b", "c"], "web": ["a"]}


def test_a_damaged_list_of_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sources.json").write_text("{")
    with pytest.raises(BadInputError, match=r"sources\.json is not readable"):
        reference.known_sources(tmp_path)


def test_rows_that_were_trained_on_are_left_out_where_there_are_enough_others(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(300)]
    labels = ["a" if i % 3 else None for i in range(300)]
    write_rows(
        tmp_path / "rows.parquet", texts, labels, ["holdout" if i % 2 else "train" for i in range(300)]
    )
    window = reference.window(rows.read([tmp_path / "rows.parquet"]))
    expected = [text for i, text in enumerate(texts) if i % 2 or not i % 3]
    assert list(window.texts) == expected
    few = rows.read([tmp_path / "rows.parquet"]).slice(0, 60)
    assert len(reference.window(few)) == 60
