"""Detector "evidently": a page, and no decision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keeperd.api import Context, PluginError, Window
from keeperd_plugins.evidently_report import EvidentlyReport
from tests.conftest import labelled_texts


def window(rows: int, seed: int, *topics: str) -> Window:
    texts, labels = labelled_texts(rows, topics, seed)
    logits = np.eye(2, dtype=np.float32)[[len(label) % 2 for label in labels]] * 3
    return Window(texts, logits=logits, classes=("even", "odd"))


def test_a_page_is_rendered_and_nothing_decided(tmp_path: Path) -> None:
    pytest.importorskip("evidently")
    context, one = Context(tmp_path), EvidentlyReport()
    statistics = one.fit(window(200, 0, "food", "sport"), context)
    [signal], state = one.detect(statistics, window(100, 1, "music"), {"kept": 1}, context)
    assert not signal.drifted and signal.warning and signal.facts["html"] == "evidently.html"
    assert "text" in signal.facts["columns"] and state == {"kept": 1}
    page = (tmp_path / "evidently.html").read_text(encoding="utf-8")
    assert "other signs" in page and "<script src" not in page
    [odd], _ = one.detect(statistics, Window([""] * 3), None, context)
    assert not odd.drifted


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
one, context = EvidentlyReport(), Context(Path("."))
statistics = one.fit(Window(["a b"] * 30), context)
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if module}}
assert not loaded & {{"evidently", "pandas", "torch"}}
try:
    one.detect(statistics, Window(["a b"] * 30), None, context)
except PluginError as error:
    print(error)
"""


def test_fitting_needs_no_evidently_and_its_absence_is_one_clear_line() -> None:
    code = CODE.format(block="sys.modules['evidently'] = sys.modules['pandas'] = None")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1 and "pip install 'keeperd[evidently]'" in done.stdout
