"""Format sentinels: cheap figures whose jump means that something upstream broke (a wrong encoding, a
flood of one text, capitals, another script). They warn and never count as drift.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keeperd.api import JSON, Signal
from keeperd_plugins import _ngrams

if TYPE_CHECKING:
    from numpy.typing import NDArray

DESCRIPTORS = ("length", "non-ASCII share", "upper-case share")
"""Columns of `describe`. Length is in characters of the whole text."""
LEAST_SHIFT = 0.1
"""Smaller distances of distributions (Kolmogorov-Smirnov) are not worth a warning."""
LEAST_NEW, LEAST_REPEATED = 0.02, 0.05
TOLD = 10


def describe(texts: Sequence[str]) -> NDArray[np.float32]:
    """float32 (n, 3), see `DESCRIPTORS`."""
    rows = np.zeros((len(texts), len(DESCRIPTORS)), np.float32)
    for row, text in enumerate(texts):
        cut = _ngrams.cut(text)
        letters = sum(sign.isupper() or sign.islower() for sign in cut)
        rows[row] = (
            len(text),
            sum(ord(sign) > 127 for sign in cut) / max(len(cut), 1),
            sum(sign.isupper() for sign in cut) / max(letters, 1),
        )
    return rows


def digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """uint64 (n,): equal for texts that are equal but for case and white space."""
    found = [
        hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "replace"), digest_size=8).digest()
        for text in texts
    ]
    return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64)


def repeated(hashes: NDArray[np.uint64]) -> float:
    """Share of rows that repeat an earlier one."""
    return 1.0 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0


def characters(texts: Sequence[str]) -> tuple[NDArray[np.uint32], float]:
    """All code points of the texts, sorted, and the share of texts with one that no other has."""
    sets = [set(_ngrams.cut(text)) for text in texts]
    counted = Counter(sign for signs in sets for sign in signs)
    alone = sum(any(counted[sign] == 1 for sign in signs) for signs in sets)
    return np.array(sorted(map(ord, counted)), np.uint32), alone / max(len(texts), 1)


@dataclass(frozen=True)
class Usual:
    """What the reference looked like.

    Attributes:
        descriptors: float32 (m, 3).
        hashes: uint64 (m,), in an order that is as good as random.
        characters: uint32, all code points.
        odd: share of its rows with a character that no other row has.
        inflation: design effect of each descriptor, see `_blocks.inflation`.
    """

    descriptors: NDArray[np.float32]
    hashes: NDArray[np.uint64]
    characters: NDArray[np.uint32]
    odd: float
    inflation: tuple[float, ...]


def look(usual: Usual, texts: Sequence[str], alpha: float) -> tuple[list[Signal], dict[str, JSON]]:
    """Warnings about a window (its rows in an order that is as good as random), each at level
    alpha / 5, and the figures {name: {"current", "reference"}} whether they warn or not."""
    level = alpha / (len(DESCRIPTORS) + 2)
    looks = [_characters(usual, texts, level), _duplicates(usual, texts, level)]
    now = describe(texts)
    for column, name in enumerate(DESCRIPTORS):
        looks.append(
            _shift(name, usual.descriptors[:, column], now[:, column], usual.inflation[column], level)
        )
    figures: dict[str, JSON] = {
        signal.name: {"current": signal.effect, "reference": signal.baseline, **signal.facts}
        for signal in looks
    }
    return [signal for signal in looks if signal.warning], figures


def _characters(usual: Usual, texts: Sequence[str], level: float) -> Signal:
    from scipy.stats import binom

    seen = set(usual.characters.tolist())
    new = [{sign for sign in _ngrams.cut(text) if ord(sign) not in seen} for text in texts]
    hits = sum(map(bool, new))
    rows = len(usual.descriptors)
    share, usually = hits / len(texts), (usual.odd * rows + 1) / (rows + 2)
    p = float(binom.sf(hits - 1, len(texts), usually))
    counted = Counter(sign for signs in new for sign in signs)
    most = sorted(counted, key=lambda sign: (-counted[sign], sign))[:TOLD]
    shown = ", ".join(f"U+{ord(sign):04X}" for sign in most)
    return Signal(
        name="new characters",
        drifted=False,
        summary=f"{share:.1%} of the rows have characters that the reference has nowhere ({shown})."
        if hits
        else "No row has a character that the reference does not have.",
        p_value=p,
        effect=share,
        effect_unit="share",
        baseline=usual.odd,
        warning=p <= level and share - usual.odd >= LEAST_NEW,
        facts={"characters": [f"U+{ord(sign):04X}" for sign in most]},
    )


def _duplicates(usual: Usual, texts: Sequence[str], level: float) -> Signal:
    from scipy.stats import norm

    size = min(len(texts), len(usual.hashes))  # the share grows with the number of rows
    share, usually = repeated(digests(texts[:size])), repeated(usual.hashes[:size])
    pooled = (size * (share + usually) + 1) / (2 * size + 2)
    p = float(norm.sf((share - usually) / np.sqrt(2 * pooled * (1 - pooled) / size)))
    return Signal(
        name="duplicates",
        drifted=False,
        summary=f"{share:.1%} of the rows repeat another row; in the reference {usually:.1%}.",
        p_value=p,
        effect=share,
        effect_unit="share",
        baseline=usually,
        warning=p <= level and share - usually >= LEAST_REPEATED,
    )


def _shift(
    name: str, before: NDArray[np.float32], now: NDArray[np.float32], inflation: float, level: float
) -> Signal:
    """Two-sample Kolmogorov-Smirnov, with fewer effective rows where rows of one day are alike."""
    from scipy.stats import ks_2samp, kstwobign

    distance = float(ks_2samp(before, now, method="asymp").statistic)
    rows = len(before) * len(now) / (len(before) + len(now)) / inflation
    p = float(kstwobign.sf(distance * np.sqrt(rows)))
    middle, usually = float(np.mean(now)), float(np.mean(before))
    told = "{:.0f} characters" if name == "length" else "{:.1%}"
    return Signal(
        name=name,
        drifted=False,
        summary=f"The {name} of texts has changed: {told.format(middle)} on average, in the reference"
        f" {told.format(usually)}.",
        p_value=p,
        effect=middle,
        effect_unit="characters" if name == "length" else "share",
        baseline=usually,
        warning=p <= level and distance >= LEAST_SHIFT,
        facts={"distance": distance},
    )
