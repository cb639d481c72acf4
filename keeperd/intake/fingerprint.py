"""When two texts count as the same: a folded form for exact, a MinHash sketch for near duplicates.

The folded form ignores case, compatibility variants, white space, punctuation and invisible
characters, in every script; marks and symbols stay, so that vowel signs and emoji still tell texts
apart. The sketch estimates the Jaccard similarity of two texts' sets of character 5-grams (Broder,
"On the resemblance and containment of documents", 1997), which needs no words and therefore suits
scripts without spaces too.

rensa makes the sketches: its batch call took 0.02 ms a document where datasketch, one Python call
a document, takes several times that. Its algorithm may change with its version, so a file of
sketches says in its metadata which `RECIPE` they were made with.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import sys
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHINGLE = 5
PADDING = "\0" * (SHINGLE - 1)
BANDS = 32
BAND_ROWS = 4  # of 128 permutations in all
SEED = 1
RECIPE_KEY = b"keeperd.bands"

Hashes = npt.NDArray[np.uint64]
Bands = npt.NDArray[np.uint32]

# `unicodedata.normalize` takes quadratic time over a run of unsorted combining marks: a word of
# half a million marks held it for minutes. Longer words are normalised in pieces of this length.
PIECE = 200
_PIECES = re.compile(rf"\s*\S{{1,{PIECE}}}|\s+")


@functools.cache
def recipe() -> bytes:
    """What makes sketches comparable: equal recipes, comparable sketches."""
    import rensa

    made = f"rensa-{rensa.RMinHash.ALGORITHM_VERSION} unicode-{unicodedata.unidata_version}"
    return f"{made} padded {SHINGLE}-grams {BANDS}x{BAND_ROWS} seed-{SEED}".encode()


@functools.cache
def _folding() -> dict[int, str | None]:
    """For `str.translate`: invisible characters fold to nothing, punctuation and space to a space."""
    table: dict[int, str | None] = {}
    for code in (*range(0x20000), *range(0xE0000, 0xE0200)):  # other planes have neither
        category = unicodedata.category(chr(code))
        if category == "Cf" or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
            table[code] = None  # also the variation selectors
        elif category[0] in "PZ" or category == "Cc":
            table[code] = " "
    return table


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def fold(text: str) -> str:
    """The form by which texts are compared; "" for a text with nothing visible in it."""
    if text.isascii():
        plain = text.lower()
    elif len(text) <= PIECE:
        plain = _compatible(text)
    else:
        plain = "".join(map(_compatible, _PIECES.findall(text)))
    folded = " ".join(plain.translate(_folding()).split())
    if folded:
        return folded
    # A text of punctuation alone ("?!") is compared as it is.
    return "".join(character for character in plain if _folding().get(ord(character), "") is not None).strip()


def digest(folded: str) -> tuple[str, int]:
    """sha256 hex of a folded text, and its first 64 bits as a number."""
    sha = hashlib.sha256(folded.encode())
    return sha.hexdigest(), int.from_bytes(sha.digest()[:8], "big")


def in_holdout(hashes: Hashes, share: float) -> npt.NDArray[np.bool_]:
    """Which texts belong to the holdout split, a `share` (0..1) of all: by hash alone, so that equal
    texts are always on the same side."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def needed(similarity: float) -> int:
    """How many bands two texts must share to be compared any further: two standard deviations below
    what texts of this Jaccard similarity (0..1) share on average, so that 2 pairs of 100 just as
    similar are missed, and hardly any that is more similar. At 0.9 that is 15 of 32."""
    share = similarity**BAND_ROWS
    return max(1, math.floor(BANDS * share - 2 * math.sqrt(BANDS * share * (1 - share))))


def sketch(folded: Sequence[str]) -> Bands:
    """uint32 (n, BANDS) of n folded texts; the share of equal bands of two rows estimates the
    fourth power of their Jaccard similarity."""
    import rensa

    if not folded:
        return np.zeros((0, BANDS), np.uint32)
    shingles, offsets = _shingles(folded)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, BANDS * BAND_ROWS, SEED)
    slots = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(folded), BANDS, BAND_ROWS)
    bands = np.full((len(folded), BANDS), 0x811C9DC5, np.uint32)
    for column in range(BAND_ROWS):
        bands = (bands ^ slots[:, :, column]) * np.uint32(0x9E3779B1)
        bands ^= bands >> np.uint32(15)
    return bands


def padded(folded: str) -> str:
    """Filled up at both ends, so that a change at an end costs as many n-grams as one in the middle;
    otherwise "an alarm for 6" and "an alarm for 7" would be more alike than they should be."""
    return f"{PADDING}{folded}{PADDING}"


def _shingles(folded: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.uint64]]:
    """64-bit hashes of all texts' character n-grams in one array, and where each text's begin."""
    filled = [padded(text) for text in folded]
    order = "le" if sys.byteorder == "little" else "be"
    codes = np.frombuffer("".join(filled).encode(f"utf-32-{order}"), dtype=np.uint32)
    starts = len(codes) - SHINGLE + 1
    hashes = np.zeros(starts, np.uint64)
    for place in range(SHINGLE):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += codes[place : starts + place]
        hashes += np.uint64(1)
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    lengths = np.array([len(text) for text in filled])
    ends = np.cumsum(lengths)
    inside = np.ones(starts, bool)
    for back in range(1, SHINGLE):  # n-grams that would reach into the next text
        inside[ends[ends - back < starts] - back] = False
    offsets = np.concatenate(([0], np.cumsum(lengths - SHINGLE + 1))).astype(np.uint64)
    return hashes[inside], offsets
