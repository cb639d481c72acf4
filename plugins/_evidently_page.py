"""Evidently's data drift page with keeperd's judgement in it. Importing this imports Evidently.

What is put right on the page: one drifted column is enough to call it drift, the strongest change stands
first, p-values are called so, and text from rows cannot run as a script.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

from keeperd_plugins import _evidently_tests as tests

if TYPE_CHECKING:
    from pandas import DataFrame

HEADINGS = {
    "Column": "Column",
    "Data Drift": "Drift",
    "Stat Test": "Test",
    "Drift Score": "p-value, for all columns together",
}
DATA = re.compile(r"^ *var (?:metric|additional_graphs_metric)_[0-9a-f]{32} = .*$", re.MULTILINE)
"""Evidently writes what it shows as JSON into a script, a line each, and leaves `</script>` as it is."""
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'"
    " 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:\">"
)
"""The page needs nothing from outside, and whoever opens it fetches nothing."""


class DriftPage(DataDriftPreset):  # type: ignore[misc]
    """The preset with keeperd's tests and plain headings."""

    def render(self, context: Any, child_widgets: Any = None) -> list[Any]:
        """See Evidently's `MetricContainer.render`: widgets of the page, from top to bottom."""
        widgets: list[Any] = super().render(context, child_widgets)
        for widget in widgets:
            params = widget.params or {}
            for one in params.get("counters", []):
                if one["value"] == "Dataset Drift":
                    one["label"] = self._verdict(one["label"])
            for column in params.get("columns", []):
                column["title"] = HEADINGS.get(column["title"], column["title"])
            if "data" in params:
                params["data"] = params["data"][::-1]  # Evidently puts the largest score first
        return widgets

    def _verdict(self, told: str) -> str:
        found = "NOT detected" not in told
        said = "At least one column has drifted" if found else "No column has drifted"
        return f"{said} by keeperd's tests (level {self.threshold} for all columns together)."


def write(path: Path, reference: DataFrame, current: DataFrame, judge: tests.Judge, level: float) -> None:
    """Write the page of two tables with the same columns; the judge then knows the p-values.

    Args:
        level: a column whose p-value, corrected for their number, is at most this has drifted.
    """
    tests.register(judge, level)
    names = list(reference.columns)
    definition = DataDefinition(
        text_columns=[name for name in names if name == "text"],
        numerical_columns=[name for name in names if name not in {"text", "answer"}],
        categorical_columns=[name for name in names if name == "answer"],
    )
    preset = DriftPage(
        text_method=tests.TEXT,
        num_method=tests.NUMBERS,
        cat_method=tests.SHARES,
        per_column_method={"confidence": tests.RANKS},
        threshold=level,
        drift_share=1 / len(names),
    )
    data = [Dataset.from_pandas(frame, data_definition=definition) for frame in (current, reference)]
    Report([preset], include_tests=True).run(*data).save_html(str(path))
    path.write_text(_harmless(path.read_text(encoding="utf-8")), encoding="utf-8")


def _harmless(page: str) -> str:
    """The page with every `<` of its data written as JSON's `\\u003c`, and the policy."""
    escaped = DATA.sub(lambda found: found[0].replace("<", "\\u003c"), page)
    return escaped.replace("<head>", f"<head>{POLICY}", 1)
