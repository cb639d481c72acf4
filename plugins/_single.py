"""The single check of a window: text, answers, confidence, labels and format, at one level, without a state.

A ridge classifier is asked to tell rows of the window from rows of the reference. Where it cannot do
so better on rows that it was not fitted to than under random splits of both, nothing has changed
(classifier two-sample test; Lopez-Paz and Oquab 2017, ICLR). Where the reference has dates, the window
must besides lie further from it than its own days do from one another.
"""

from __future__ import annotations

import math
from dataclasses import replace

from keeperd.api import Signal, Window
from keeperd_plugins import _check, _reference, _sentinels, _shares
from keeperd_plugins._check_options import CheckOptions


def look(reference: _reference.Reference, window: Window, options: CheckOptions, seed: int) -> list[Signal]:
    """All signals, that of the text first."""
    sample = _check.sampled(window, options.rows, seed)
    others = _answers(reference, sample, options, seed)
    level = options.alpha / 2 if others else options.alpha
    text = _text(reference, sample, options, level, seed)
    warnings, figures = _sentinels.look(reference.usual, sample.texts, options.alpha)
    facts = {**text.facts, "sentinels": figures, "rows": len(window)}
    return [replace(text, facts=facts), *others, *warnings]


def _permutations(options: CheckOptions, level: float) -> int:
    """As many as configured, but never so few that no p-value could reach the level."""
    return max(options.permutations, min(math.ceil(2 / level), 20_000))


def _text(
    reference: _reference.Reference, sample: Window, options: CheckOptions, level: float, seed: int
) -> Signal:
    sides = _check.side_by_side(reference, sample, _permutations(options, level), seed)
    by_days = reference.p_by_days(sample)
    p = max(sides.p, by_days or 0.0)
    usual, spread = reference.values["usual_auc"], reference.values["usual_auc_spread"]
    drifted = p <= level and sides.auc >= options.least_auc
    large = sides.auc > usual + 3 * spread
    figures = f"AUC {sides.auc:.2f}, usually {usual:.2f}; p = {p:.2g}"
    if drifted:
        size = "" if large else ": a small but real change"
        summary = f"The text is different from the reference{size} ({figures})."
    elif p <= level:
        summary = f"The text differs from the reference, but so little that it does not count ({figures})."
    elif sides.p <= level:
        summary = (
            f"The text differs from the reference no more than its days differ among themselves ({figures})."
        )
    else:
        summary = f"The text is like the reference ({figures})."
    told = _check.explain(reference, sample, sides, seed) if drifted else _check.NOTHING
    return Signal(
        name="text",
        drifted=drifted,
        summary=summary,
        p_value=p,
        effect=sides.auc,
        effect_unit="AUC",
        baseline=usual,
        words=told.words,
        slices=told.slices,
        facts={
            "p_by_rows": sides.p,
            "p_by_days": by_days,
            "calibrated_on": "rows" if by_days is None else "days",
            "large": large,
            **told.facts(),
        },
    )


def _answers(
    reference: _reference.Reference, sample: Window, options: CheckOptions, seed: int
) -> list[Signal]:
    """Signals of answers, confidence and labels. They share one half of alpha, the text has the other:
    together they keep the chance of a false alarm (Bonferroni)."""
    labels = [label for label in sample.labels if label is not None]
    by_label = reference.values["labels"]
    have_labels = min(len(labels), sum(by_label.values())) >= _shares.LEAST
    confidences = reference.arrays.get("confidence")
    have_answers = confidences is not None and sample.logits is not None
    number = have_labels + 2 * have_answers
    blocks = reference.blocks_in(sample)

    def level(name: str, rows: int) -> _shares.Level:
        inflation, freedom = reference.inflation(name, rows, blocks)
        alpha = options.alpha / 2 / max(number, 1)
        return _shares.Level(alpha, _permutations(options, alpha), seed, inflation, freedom)

    found: list[Signal | None] = []
    if sample.logits is not None and confidences is not None:
        answers, sure = _shares.answers(sample.logits, sample.classes), _shares.confidence(sample.logits)
        rule, by_answer = level(_reference.ANSWERS, len(sample)), reference.values["answers"]
        found = [
            _shares.compare("predicted labels", by_answer, answers, rule, what="champion's answers"),
            _shares.compare_confidence(confidences, sure, level("confidence", len(sample))),
        ]
    if have_labels:
        rule = level(_reference.LABELS, len(labels))
        found.append(_shares.compare("labels", by_label, labels, rule, what="labels"))
    return [signal for signal in found if signal is not None]
