"""Sources: rows that come from different places, such as a mailbox and a web form, are each compared with
their own past. Each has statistics, states and a budget of false alarms of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from keeperd.api import Signal, Window

POOLED = ""
"""In place of a source: all rows of the reference together."""
LEAST_ROWS = 200
"""A source with fewer rows in the reference has no statistics of its own."""
MOST = 16


def own(reference: Window) -> list[str]:
    """Sources that get statistics of their own, sorted; none where there are not two to tell apart."""
    counted = Counter(source for source in reference.sources if source)
    ranked = sorted(counted, key=lambda source: (-counted[source], source))
    large = [source for source in ranked if counted[source] >= LEAST_ROWS][:MOST]
    return sorted(large) if len(counted) >= 2 else []


def parts(window: Window, known: Sequence[str]) -> dict[str, Window]:
    """The window's rows by source; those of a source that is not known stand under `POOLED`, to be
    compared with the whole reference. Sorted by name."""
    rows: dict[str, list[int]] = {}
    for row, source in enumerate(window.sources):
        rows.setdefault(source if source and source in known else POOLED, []).append(row)
    if list(rows) == [POOLED]:
        return {POOLED: window}
    return {source: window.take(rows[source]) for source in sorted(rows)}


def named(signal: Signal, source: str) -> Signal:
    """The signal with its source in name, summary and facts."""
    if source == POOLED:
        return signal
    return replace(
        signal,
        name=f"{signal.name} ({source})",
        summary=f"{source}: {signal.summary}",
        facts={**signal.facts, "source": source},
    )
