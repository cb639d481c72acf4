"""Detectors at work on a window: run them, and put together what they say. Shared by the assessment
of a model's batches and by the comparison of two files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, cast

from keeperd.api import JSON, Component, Context, Detector, Prediction, Signal, Statistics, Window

EXAMPLE_CHARACTERS = 300
Load = Callable[[str, str], Component[Any]]


class Predictor(Protocol):
    """What answers for a model; `inference.Predictor` does."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of the logits."""

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Logits and embeddings, row by row."""


def answered(window: Window, predictor: Predictor) -> Window:
    """The window with the predictor's answers."""
    answers = predictor.predict(window.texts)
    logits = answers.logits if predictor.classes else None
    return replace(window, logits=logits, embeddings=answers.embeddings, classes=predictor.classes)


def deciding(names: Sequence[str], load: Load, alpha: float) -> dict[str, Detector[Any]]:
    """The detectors that decide together, at most with probability `alpha` wrongly: each gets its
    part (Bonferroni), unless the operator has set an alpha of its own."""
    return {name: _at(cast("Detector[Any]", load("detector", name)), alpha / len(names)) for name in names}


def _at(detector: Detector[Any], alpha: float) -> Detector[Any]:
    options = detector.options
    if "alpha" not in type(options).model_fields or "alpha" in options.model_fields_set:
        return detector
    return type(detector)(options.model_copy(update={"alpha": alpha}))


def detect(
    detectors: Mapping[str, Detector[Any]],
    statistics: Mapping[str, Statistics],
    window: Window,
    states: Mapping[str, JSON],
    context: Context,
) -> tuple[list[Signal], dict[str, JSON]]:
    """All signals of all detectors, and their new states."""
    signals: list[Signal] = []
    after: dict[str, JSON] = {}
    for name, detector in detectors.items():
        found, after[name] = detector.detect(statistics[name], window, states.get(name), context)
        signals += found
    return signals, after


def drifted(signals: Sequence[Signal]) -> bool:
    """True where a signal that is no warning says so."""
    return any(signal.drifted and not signal.warning for signal in signals)


def news(signals: Sequence[Signal]) -> bool:
    """True where drift was found now, not only earlier: a detector that goes on telling an alarm has
    "since" among its facts, and in "alarm" what raised it at this call, or nothing."""
    return any(
        signal.drifted and not signal.warning and bool(signal.facts.get("alarm", "since" not in signal.facts))
        for signal in signals
    )


def named(signals: Sequence[Signal], fact: str) -> list[str]:
    """Ids of rows that signals name in this fact, each once."""
    return list(dict.fromkeys(one for signal in signals for one in signal.facts.get(fact, ())))


def examples(signals: Sequence[Signal], current: Window, reference: Window | None = None) -> list[JSON]:
    """The rows that signals name as typical of what is new ("current") and of what is gone
    ("reference"), cut short: {"side", "id", "text"}; each text once."""
    found: dict[tuple[str, str], JSON] = {}
    sides = (("current", "examples", current), ("reference", "examples_before", reference))
    for side, fact, window in sides:
        texts = {} if window is None else dict(zip(window.ids, window.texts, strict=True))
        for one in named(signals, fact):
            if one in texts:
                text = texts[one][:EXAMPLE_CHARACTERS]
                found.setdefault((side, text), {"side": side, "id": one, "text": text})
    return list(found.values())


def as_json(signal: Signal) -> dict[str, JSON]:
    """A signal for a report; figures that are not finite become None."""
    plain: dict[str, JSON] = _finite({**asdict(signal), "words": [asdict(term) for term in signal.words]})
    return plain


def _finite(value: JSON) -> JSON:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
