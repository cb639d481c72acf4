"""The texts of the demo: what functions and classes say of themselves, in packages that are here anyway.

Files are parsed, never imported. The same files always give the same texts in the same order.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHORTEST, LONGEST = 40, 200
"""Characters of what is said, the name before it aside."""
MOST_BYTES = 400_000
"""Larger files take long to parse, and most of them are tables."""
NOT_PROSE = re.compile(
    r"--|>>>|==|::|^\s*[:@.*-]|\n\s*[:@.]|\b(Args|Arguments|Parameters|Returns|Raises)\b:?\s*\n"
)
"""What shows that a paragraph is a table, a list, a session or a signature."""
MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*|~\\]+|<[^<>]*>")
"""Signs of markup, which would tell packages apart by their habits and not by what they say."""


@dataclass(frozen=True)
class Doc:
    """A text, its subject area, and the module or package that it is about."""

    text: str
    label: str
    source: str


@dataclass(frozen=True)
class Area:
    """Where texts of one subject area come from: modules of the standard library, packages of others."""

    standard: tuple[str, ...]
    others: tuple[str, ...]


def _area(standard: str, others: str) -> Area:
    return Area(tuple(standard.split()), tuple(others.split()))


AREAS = {
    "files": _area(
        "shutil.py pathlib.py pathlib os.py zipfile.py zipfile tarfile.py tempfile.py glob.py fileinput.py"
        " gzip.py bz2.py lzma.py posixpath.py ntpath.py genericpath.py filecmp.py zipapp.py mailbox.py"
        " netrc.py configparser.py plistlib.py csv.py shelve.py dbm pkgutil.py",
        "pyarrow fsspec filelock safetensors",
    ),
    "maths": _area(
        "statistics.py fractions.py decimal.py _pydecimal.py random.py numbers.py heapq.py bisect.py"
        " colorsys.py",
        "scipy sympy mpmath networkx",
    ),
    "network": _area(
        "http urllib socket.py socketserver.py ssl.py ftplib.py smtplib.py imaplib.py poplib.py xmlrpc"
        " ipaddress.py wsgiref",
        "urllib3 httpx httpcore starlette requests h11",
    ),
    "screen": _area("tkinter turtle.py idlelib curses turtledemo", "rich PIL typer"),
    "testing": _area("unittest doctest.py test/support", "numpy/testing torch/testing _pytest hypothesis"),
}
"""Label -> where its texts come from. What a machine lacks is passed over."""

PLOTS = tuple(
    f"matplotlib/{name}"
    for name in (
        "axes", "axis.py", "patches.py", "lines.py", "collections.py", "ticker.py", "figure.py", "contour.py",
        "colorbar.py", "projections", "legend.py", "artist.py", "quiver.py", "text.py", "spines.py",
    )
)  # fmt: skip
"""Parts of a package of its own kind: it draws on the screen, and what it draws is mathematics."""


def standard_library(label: str, most: int) -> list[Doc]:
    """Texts of the modules that belong to this area, about `most` of each."""
    return _read(Path(sysconfig.get_paths()["stdlib"]), AREAS[label].standard, label, most)


def packages(label: str, most: int) -> list[Doc]:
    """Texts of the installed packages that belong to this area, about `most` of each."""
    return _read(Path(sysconfig.get_paths()["purelib"]), AREAS[label].others, label, most)


def plots(label: str, most: int) -> list[Doc]:
    """Texts of `PLOTS` under a label of your choice, about `most`."""
    return _read(Path(sysconfig.get_paths()["purelib"]), PLOTS, label, most)


def order(text: str, seed: int) -> bytes:
    """A key that puts texts into an arbitrary order, always the same for the same seed."""
    return hashlib.sha256(f"{seed} {text}".encode(errors="surrogatepass")).digest()


def _read(root: Path, parts: Sequence[str], label: str, most: int) -> list[Doc]:
    """The texts of these modules and packages below `root`, each text once."""
    found: dict[str, Doc] = {}
    for part in parts:
        before = len(found)
        for path in _files(root / part):
            for text in _texts(path):
                found.setdefault(text, Doc(text, label, part.split("/")[0].removesuffix(".py")))
            if len(found) - before >= most:
                break
    return list(found.values())


def _files(path: Path) -> Iterator[Path]:
    """Python files, in an order that mixes a package's folders."""
    if path.is_file():
        yield path
    elif path.is_dir():
        files = [one for one in path.rglob("*.py") if not {"tests", "idle_test", "_vendor"} & set(one.parts)]
        yield from sorted(files, key=lambda one: order(str(one.relative_to(path)), 0))


def _texts(path: Path) -> Iterator[str]:
    """ "ZipFile.open: Return a file-like object ..." for every function and class of a file."""
    try:
        source = path.read_bytes()
        if len(source) > MOST_BYTES:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escapes
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # not ours to mend, and there are others
    yield from _documented(tree, "")


def _documented(node: ast.Module | ast.ClassDef, inside: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}{child.name}"
            said = _prose(ast.get_docstring(child) or "")
            if len(said) >= SHORTEST:
                yield f"{name}: {said}"
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{name}.")


def _prose(docstring: str) -> str:
    """The first two paragraphs in plain words, cut after the last word that fits."""
    paragraphs = [one for one in docstring.split("\n\n")[:2] if not NOT_PROSE.search(one)]
    words = MARKUP.sub("", " ".join(paragraphs)).split()
    return textwrap.shorten(" ".join(words), LONGEST, placeholder="")
