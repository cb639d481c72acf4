"""How each part of a cycle's evidence is shown: intake, drift, decision, training, gate, parity, probation.

A part may lack anything: a cycle is looked at while it runs, and after it failed half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from keeperd.terminal import (
    ASK,
    BAD,
    GOOD,
    QUIET,
    count,
    figure,
    milliseconds,
    percent,
    plain,
    simple_table,
    span,
    text,
)

MOST_WORDS = 8
MOST_CHECKS = 6
"""Labels and sources that passed the gate and are still shown, the worst first."""

Facts = Mapping[str, Any]


def _intake(result: Facts) -> Text:
    files = result.get("files") or {}
    line = Text(f"{count(result.get('rows'), 'row')} from {count(files.get('accepted'), 'file')}")
    line.append(f", {count(result.get('labelled'))} labelled, {count(result.get('holdout'))} held out")
    odd = [("bad_rows", "refused"), ("duplicates", "duplicates"), ("near_duplicates", "near duplicates"),
           ("leaks", "found in test rows"), ("late_labels", "late labels")]  # fmt: skip
    left = [f"{count(result[key])} {words}" for key, words in odd if result.get(key)]
    if files.get("quarantined"):
        left.append(f"{count(files['quarantined'], 'file')} quarantined")
    if left:
        line.append("\n" + ", ".join(left), ASK if result.get("leaks") or files.get("quarantined") else QUIET)
    labels = sorted((result.get("labels") or {}).items(), key=lambda item: -item[1])
    if labels:
        shown = ", ".join(f"{plain(label, 40)} {count(n)}" for label, n in labels[:MOST_WORDS])
        more = f" and {len(labels) - MOST_WORDS} more" if len(labels) > MOST_WORDS else ""
        line.append(f"\nlabels: {shown}{more}", QUIET)
    return line


def assess(report: Facts) -> RenderableType:
    """A drift report: every signal, the words that changed, harm, and labels that look odd."""
    parts: list[RenderableType] = []
    signals = report.get("signals") or []
    if signals:
        table = simple_table("signal", "effect", "usual", "p", "", right=("effect", "usual", "p"))
        for signal in signals:
            told = (
                ("warning", ASK)
                if signal.get("warning")
                else ("drift", BAD)
                if signal["drifted"]
                else ("no", GOOD)
            )
            table.add_row(
                text(signal["name"], limit=60), _effect(signal), figure(signal.get("baseline"), 2),
                _p_value(signal.get("p_value")), Text(*told),
            )  # fmt: skip
        parts += [table]
    for signal in signals:
        if signal["drifted"] or signal.get("warning"):
            parts.append(text(signal["summary"]))
            parts += _words(signal.get("words") or [])
    harm = report.get("harm") or {}
    if harm:
        parts.append(_harm(harm))
    suspect = report.get("suspect") or {}
    if suspect.get("suspect"):
        parts.append(text(f"suspect: {suspect.get('why')}", BAD))
    new = report.get("new_labels") or {}
    if new:
        shown = [f"{plain(label, 40)} {count(n)}" for label, n in list(new.items())[:MOST_WORDS]]
        parts.append(Text("labels that the champion does not know: " + ", ".join(shown), ASK))
    return Group(*parts)


def _effect(signal: Facts) -> str:
    unit = {"total variation": "TV"}.get(signal.get("effect_unit") or "", signal.get("effect_unit") or "")
    return "-" if signal.get("effect") is None else f"{figure(signal['effect'], 2)} {plain(unit, 20)}".strip()


def _p_value(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _words(words: Sequence[Facts]) -> list[Text]:
    more = [word["term"] for word in words if word["z"] > 0][:MOST_WORDS]
    less = [word["term"] for word in words if word["z"] < 0][:MOST_WORDS]
    lines = [("more", more), ("less", less)]
    return [
        Text(f"  {name}: ").append("  ".join(plain(term, 30) for term in terms), "cyan")
        for name, terms in lines
        if terms
    ]


def _harm(harm: Facts) -> Text:
    """What `drift.Harm` says: a loss of accuracy and how it is known, or that it is not."""
    why = f" {harm['why']}" if harm.get("why") else ""
    if harm.get("abstained") or harm.get("estimate") is None:
        return text(f"harm: not known.{why}", ASK)
    loss = harm["estimate"]
    line = f"harm: accuracy {percent(harm.get('accuracy'))}, accepted at {percent(harm.get('accepted'))}"
    line += f": {100 * abs(loss):.1f} points {'lost' if loss >= 0 else 'gained'}"
    if harm.get("low") is not None and harm.get("high") is not None:
        low, high = sorted((harm["low"], harm["high"]) if loss >= 0 else (-harm["low"], -harm["high"]))
        line += f" ({100 * low:.1f} to {100 * high:.1f})"
    rows = harm.get("rows")
    how = {
        "labels": f"measured on {count(rows, 'labelled row')}",
        "estimate": f"estimated on {count(rows, 'row')}",
    }
    return text(f"{line}; {harm.get('why') or how.get(str(harm.get('how')), 'not measured')}")


def _decision(decision: Facts) -> Text:
    line = Text(plain(decision.get("action"), 20), "bold").append(f": {plain(decision.get('why'))}")
    for reason in decision.get("reasons") or []:
        line.append(f"\n- {plain(reason)}", QUIET)
    return line


def _train(result: Facts) -> Text:
    line = Text(f"version {result.get('version')} by {plain(result.get('strategy'), 64)}: ")
    line.append(
        f"{count(result.get('examples'), 'example')}, {count(len(result.get('classes') or []), 'label')}"
    )
    if result.get("seconds") is not None:
        line.append(f", {span(result['seconds'])}")
    if result.get("peak_mb") is not None:
        line.append(f", {count(result['peak_mb'])} MB at most")
    figures = dict(result.get("figures") or {})
    note = figures.pop("note", None)
    shown = [f"{plain(key, 40)} {figure(value)}" for key, value in figures.items() if key != "examples"]
    line.append("\n" + ", ".join(shown) if shown else "", QUIET)
    return line.append(f"\n{plain(note)}" if note else "")


def _gate(verdict: Facts) -> Group:
    passed = bool(verdict.get("passed"))
    parts: list[RenderableType] = [text(verdict.get("summary") or "", GOOD if passed else BAD)]
    checks, left = _chosen(verdict.get("checks") or [])
    if checks:
        names = ("check", "figure", "90 % interval", "limit", "rows", "")
        table = simple_table(*names, right=("figure", "90 % interval", "limit", "rows"))
        for check in checks:
            told = ("pass", GOOD) if check["passed"] else ("FAIL", BAD)
            told = told if check.get("judged", True) else ("shown", QUIET)
            rows = count(check["rows"]) if check.get("rows") else "-"
            figures = (_points(check, "figure"), _interval(check), _points(check, "limit"), rows)
            table.add_row(text(check["name"], limit=60), *figures, Text(*told))
        parts += [table]
    if left:
        parts.append(
            Text(f"and {count(left, 'more label or source', 'more labels and sources')} that passed", QUIET)
        )
    parts += [text(f"{check['name']}: {check['text']}") for check in checks if not check["passed"]]
    return Group(*parts)


def _chosen(checks: Sequence[Facts]) -> tuple[list[Facts], int]:
    """All but the many labels and sources that passed; of those the worst few, and how many are left."""
    slices = [one for one in checks if one["passed"] and one["name"].startswith(("label: ", "source: "))]
    worst = sorted(slices, key=lambda one: 0.0 if one.get("figure") is None else one["figure"])[:MOST_CHECKS]
    return [one for one in checks if one not in slices or one in worst], len(slices) - len(worst)


def _points(check: Facts, key: str) -> str:
    """A share in percent, a difference of shares in points with its sign."""
    value = check.get(key)
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if check["name"] in {"flips", "gains"} else f"{100 * value:+.1f} pt"


def _interval(check: Facts) -> str:
    if check.get("low") is None or check.get("high") is None:
        return "-"
    return f"{100 * check['low']:+.1f} .. {100 * check['high']:+.1f}"


def _parity(result: Facts) -> Group:
    parts: list[RenderableType] = [text(result.get("summary") or "", GOOD if result.get("passed") else BAD)]
    artefacts = result.get("artefacts") or []
    if artefacts:
        right = ("same labels", "p50", "p95", "MB")
        table = simple_table("artefact", "on", "same labels", "p50", "p95", "MB", "", right=right)
        for one in artefacts:
            chosen = one.get("file") == result.get("chosen")
            told = ("chosen", GOOD) if chosen else ("pass", "") if one.get("passed") else ("FAIL", BAD)
            name = f"{one.get('precision')}" if one.get("precision") else one.get("file")
            latency = (milliseconds(one.get("p50_ms")), milliseconds(one.get("p95_ms")))
            runs_on = text(one.get("provider") or "-", limit=12)
            figures = (percent(one.get("agreement")), *latency, count(one.get("mb")))
            table.add_row(text(name, limit=40), runs_on, *figures, Text(*told))
        parts += [table]
    parts += [
        text(f"{one.get('precision')}: {one['why']}")
        for one in artefacts
        if not one.get("passed") and one.get("why")
    ]
    return Group(*parts)


def probation(state: Facts, probe: Facts) -> Text:
    """Who was right on the labelled rows so far; `keeperd.probation` counts them."""
    both, champion, predecessor = (state.get(key, 0) for key in ("both", "champion", "predecessor"))
    rows = both + champion + predecessor + state.get("neither", 0)
    if not rows:
        return Text("no labelled row yet")
    line = Text(
        f"champion {percent((both + champion) / rows)}, predecessor {percent((both + predecessor) / rows)}"
    )
    line.append(f" on {count(rows, 'labelled row')}\nonly the champion right on {count(champion)}")
    line.append(f", only the predecessor on {count(predecessor)}")
    if probe.get("latency_ms") is not None:
        line.append(f"; latency {milliseconds(probe['latency_ms'])}")
    return line


PARTS: tuple[tuple[str, str, str, Callable[[Facts], RenderableType]], ...] = (
    ("intake", "intake", "INTAKE", _intake),
    ("drift", "assess", "ASSESS", assess),
    ("decision", "decision", "ASSESS", _decision),
    ("training", "train", "UPDATE", _train),
    ("gate", "gate", "GATE", _gate),
    ("parity", "verify", "VERIFY", _parity),
)
"""Label, key of the facts, the state that made it, how it is shown."""
