"""What the pages and the terminal say of drift in the same words, and the look of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1e21; background: #fff; overflow-wrap: break-word }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin-top: 2rem }
.quiet { color: #6b7178 } .bad { color: #c23b34 } .good { color: #1f8a57 } .ask { color: #a86a00 }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #8883; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
meter { width: 5rem; vertical-align: middle }
blockquote { margin: .5rem 0; padding-left: .8rem; border-left: 3px solid #8886; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #e6e8ea; background: #16181b }
  .quiet { color: #9aa0a6 } .bad { color: #f0847d } .good { color: #5cc796 } .ask { color: #e0a84a } }
"""

EXCHANGEABLE = "which holds only if the rows of both files are independent of one another"


def count(number: int, noun: str) -> str:
    """1 -> "1 row", 2 -> "2 rows"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def headline(replay: Mapping[str, Any]) -> str:
    """How often the monitor would have alarmed."""
    number = len(replay["alarms"])
    blocks = count(replay["summary"]["blocks"], "block")
    return f"{count(number, 'alarm') if number else 'No alarm'} in {blocks}"


def beside(replay: Mapping[str, Any]) -> str:
    """One sentence that compares with a test of rows."""
    summary, plural = replay["summary"], "" if replay["alarm_budget"] == 1 else "s"
    return (
        f"The monitor, which bears {replay['alarm_budget']:g} false alarm{plural} in 365 blocks, alarmed"
        f" {_times(summary['alarms'])}; a test of rows at 5 % would have alarmed on"
        f" {summary['row_alarms']} of {count(summary['blocks'], 'block')}."
    )


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")


def refused(rows: Mapping[str, int]) -> str:
    """What was left out of a replay, or ""."""
    parts = [("bad", "refused"), ("undated", "without a time"), ("left", "after the last whole block")]
    found = [f"{count(rows[key], 'row')} {why}" for key, why in parts if rows[key]]
    return ", ".join(found)
