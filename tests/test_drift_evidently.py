"""Detector "evidently": a page with keeperd's judgement, and no decision."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from keeperd.api import Context, PluginError, Signal, Window
from keeperd_plugins.evidently_report import EvidentlyOptions, EvidentlyReport
from tests.conftest import labelled_texts

CHINESE = ("今天天气很好我们去吃饭吧", "这本书很有意思他在北京工作", "请问火车站怎么走", "这家餐厅的菜很好吃")
NEWS = ("股票市场今天大跌投资者很担心", "央行宣布降低利率百分之零点五")


@pytest.fixture(autouse=True)
def own_function() -> Iterator[None]:
    """Evidently's own function of words stays in place for other tests."""
    data_drift = pytest.importorskip("evidently.legacy.calculations.data_drift")
    before = data_drift.get_text_data_for_plots
    yield
    data_drift.get_text_data_for_plots = before


def window(rows: int, seed: int, *topics: str) -> Window:
    texts, labels = labelled_texts(rows, topics, seed)
    logits = np.eye(2, dtype=np.float32)[[len(label) % 2 for label in labels]] * 3
    return Window(texts, logits=logits, classes=("even", "odd"))


def look(folder: Path, before: Window, now: Window, **options: bool | float) -> tuple[Signal, str]:
    """The signal, and the page."""
    one, context = EvidentlyReport(EvidentlyOptions.model_validate(options)), Context(folder, seed=3)
    statistics = one.fit(before, context)
    json.dumps(dict(statistics.values), allow_nan=False)
    [signal], _ = one.detect(statistics, now, None, context)
    return signal, (folder / "evidently.html").read_text(encoding="utf-8")


def test_a_page_is_rendered_and_nothing_decided(tmp_path: Path) -> None:
    context, one = Context(tmp_path), EvidentlyReport()
    statistics = one.fit(window(200, 0, "food", "sport"), context)
    [signal], state = one.detect(statistics, window(100, 1, "music"), {"kept": 1}, context)
    assert not signal.drifted and signal.warning and signal.facts["html"] == "evidently.html"
    assert "text" in signal.facts["columns"] and state == {"kept": 1}
    page = (tmp_path / "evidently.html").read_text(encoding="utf-8")
    assert "other signs" in page and "keeperd's classifier" in page
    assert "<script src" not in page and "<link" not in page
    assert "At least one column has drifted by keeperd's tests" in page
    [again], _ = one.detect(statistics, window(100, 1, "music"), None, context)
    assert again == signal
    [odd], _ = one.detect(statistics, Window([""] * 3), None, context)
    assert not odd.drifted
    [lone], _ = one.detect(statistics, Window(["one \ud800 row"]), None, context)
    assert not lone.drifted


def test_a_window_drawn_alike_shows_no_drift(tmp_path: Path) -> None:
    signal, page = look(tmp_path, window(300, 0, "food", "sport"), window(150, 1, "food", "sport"))
    assert signal.facts["columns"] == []
    assert "No column has drifted by keeperd's tests" in page


def test_a_change_of_a_fifth_of_the_chinese_rows_is_seen_with_its_words(tmp_path: Path) -> None:
    before, now = list(CHINESE) * 50, [*CHINESE * 20, *NEWS * 10]
    signal, page = look(tmp_path, Window(before), Window(now))
    assert "text" in signal.facts["columns"]
    data = page.encode("ascii", "backslashreplace").decode()  # Evidently writes JSON in ASCII
    for part in ("投资", "央行", NEWS[0]):
        assert json.dumps(part)[1:-1] in data or part in page, part


def test_without_the_text_no_text_is_shown(tmp_path: Path) -> None:
    before, now = window(200, 0, "food"), Window(["unheard zzyx of"] * 100)
    signal, page = look(tmp_path, before, now, text=False)
    assert "text" not in signal.facts["columns"]
    assert "zzyx" not in page and "keeperd's classifier" not in page
    signal, page = look(tmp_path, before, now)
    assert "text" in signal.facts["columns"]
    assert "zzyx" in page and "keeperd's classifier" in page


def test_hostile_text_is_shown_and_never_run(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script><!--"
    texts = [f"{attack} {text}" for text in window(100, 1, "music").texts]
    logits = np.eye(2, dtype=np.float32)[[row % 2 for row in range(100)]]
    now = Window(texts, logits=logits, classes=(attack, "good"))
    _, page = look(tmp_path, window(200, 0, "food"), now)
    assert "alert(1)" in page
    assert attack not in page and "<script>alert" not in page
    assert page.count("Content-Security-Policy") == 1


def test_days_that_differ_by_themselves_are_no_drift(tmp_path: Path) -> None:
    """Rows of one day are alike; a further day like them is nothing special, though its rows differ."""
    topics = ("food", "sport", "travel", "music")
    texts, times, logits = [], [], []
    for day in range(28):
        share = np.random.default_rng(day).dirichlet([0.7] * 4)
        rows = np.random.default_rng(day).choice(4, 30, p=share)
        texts += [labelled_texts(1, (topics[row],), day * 100 + i)[0][0] for i, row in enumerate(rows)]
        times += [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day)] * 30
        logits += np.eye(4, dtype=np.float32)[rows].tolist()
    everything = Window(texts, times=times, logits=np.array(logits, np.float32), classes=topics)
    before, now = everything.take(range(810)), everything.take(range(810, 840))
    undated = Window(before.texts, logits=before.logits, classes=topics)
    assert "answer" in look(tmp_path, undated, now)[0].facts["columns"]
    assert "answer" not in look(tmp_path, before, now)[0].facts["columns"]


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    one, context = EvidentlyReport(EvidentlyOptions(rows=50)), Context(tmp_path)
    columns = one.fit(Window(["long text " * 50_000] * 200), context).values["columns"]
    assert {len(column) for column in columns.values()} == {50}
    assert max(map(len, columns["text"])) == 400


def test_empty_windows_are_refused(tmp_path: Path) -> None:
    one, context = EvidentlyReport(), Context(tmp_path)
    with pytest.raises(PluginError, match="empty"):
        one.fit(Window([]), context)
    statistics = one.fit(window(20, 0, "food"), context)
    with pytest.raises(PluginError, match="empty"):
        one.detect(statistics, Window([]), None, context)


CODE = """
import sys
{block}
from pathlib import Path
from keeperd.api import Context, PluginError, Window
from keeperd_plugins.evidently_report import EvidentlyReport
one, context = EvidentlyReport(), Context(Path(sys.argv[1]))
statistics = one.fit(Window(["a b"] * 30), context)
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if module}}
assert not loaded & {{"evidently", "pandas", "torch"}}
try:
    one.detect(statistics, Window(["c d"] * 30), None, context)
except PluginError as error:
    print(error)
"""


def run(block: str, folder: Path) -> list[str]:
    code = CODE.format(block=block)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_fitting_needs_no_evidently_and_its_absence_is_one_clear_line(tmp_path: Path) -> None:
    [line] = run("sys.modules['evidently'] = sys.modules['pandas'] = None", tmp_path)
    assert "pip install 'keeperd[evidently]'" in line


WATCH = """
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print(event, arguments[1:])
sys.addaudithook(watch)
"""


def test_nothing_tries_to_reach_the_network(tmp_path: Path) -> None:
    probe = WATCH + "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass"
    seen = [line.split()[0] for line in run(probe, tmp_path)]
    assert seen == ["socket.getaddrinfo", "socket.connect"]  # the watch works, and this is all it saw
    assert (tmp_path / "evidently.html").stat().st_size > 10**6
    assert run(WATCH, tmp_path) == []
