"""The texts of the demo: what documentation says in its first sentences, from packages that are here anyway.

Files are parsed, never imported. The same files always give the same texts in the same order.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHORTEST, LONGEST = 30, 400
"""Characters of a text."""
MOST_BYTES = 400_000
"""Larger files take long to parse, and most of them are tables."""
MOST_PER_PART = 120
"""Texts of one module or package, so that a large one does not drown the others."""


@dataclass(frozen=True)
class Doc:
    """One row: a text, its subject area, and the package or module that it documents."""

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
    "network": _area(
        "http urllib socket.py socketserver.py ssl.py ftplib.py smtplib.py imaplib.py poplib.py xmlrpc"
        " ipaddress.py selectors.py asyncio wsgiref",
        "httpx httpcore starlette uvicorn anyio h11 requests urllib3 websockets",
    ),
    "files": _area(
        "shutil.py pathlib.py pathlib os.py zipfile.py zipfile tarfile.py tempfile.py glob.py fileinput.py gzip.py"
        " bz2.py lzma.py posixpath.py ntpath.py genericpath.py filecmp.py zipapp.py zipimport.py mailbox.py netrc.py"
        " configparser.py tomllib plistlib.py csv.py shelve.py dbm pkgutil.py",
        "fsspec filelock watchdog pyarrow safetensors huggingface_hub watchfiles",
    ),
    "maths": _area(
        "statistics.py fractions.py decimal.py _pydecimal.py random.py numbers.py heapq.py bisect.py colorsys.py",
        "sympy scipy numpy networkx mpmath sklearn statsmodels",
    ),
    "language": _area(
        "ast.py inspect.py dis.py tokenize.py typing.py types.py importlib code.py codeop.py symtable.py pyclbr.py"
        " compileall.py modulefinder.py functools.py contextlib.py abc.py dataclasses.py enum.py copy.py weakref.py"
        " opcode.py traceback.py lib2to3",
        "pydantic typing_extensions.py pluggy attr mypy wrapt annotated_types packaging",
    ),
    "testing": _area(
        "unittest doctest.py pdb.py trace.py profile.py cProfile.py pstats.py timeit.py bdb.py tracemalloc.py"
        " cgitb.py warnings.py logging test/support",
        "numpy/testing torch/testing _pytest hypothesis sklearn/utils/_testing.py polyfactory",
    ),
    "screen": _area(
        "tkinter turtle.py idlelib curses turtledemo",
        "rich typer PIL pygments plotly",
    ),
    "text": _area(
        "string.py textwrap.py difflib.py re html xml json email gettext.py locale.py encodings codecs.py pprint.py"
        " argparse.py optparse.py getopt.py shlex.py stringprep.py base64.py quopri.py",
        "jinja2 markupsafe markdown_it yaml click transformers/tokenization_utils_base.py charset_normalizer nltk"
        " tokenizers",
    ),
    "machines": _area(
        "multiprocessing threading.py concurrent subprocess.py queue.py sched.py signal.py distutils venv ensurepip"
        " ctypes platform.py sysconfig.py site.py",
        "torch/distributed torch/cuda torch/multiprocessing psutil joblib accelerate pip setuptools",
    ),
}
"""Label -> sources. What a machine lacks is passed over."""

PLOTS = ("matplotlib",)


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def installed() -> Path:
    return Path(sysconfig.get_paths()["purelib"])


def read(root: Path, parts: Sequence[str], label: str, most: int = MOST_PER_PART) -> list[Doc]:
    """The texts of these modules and packages below `root`, each text once."""
    found: dict[str, Doc] = {}
    for part in parts:
        before = len(found)
        for path in _files(root / part):
            for text in _first_paragraphs(path):
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
        yield from sorted(files, key=lambda one: order(str(one.relative_to(path))))


def _first_paragraphs(path: Path) -> Iterator[str]:
    try:
        source = path.read_bytes()
        if len(source) > MOST_BYTES:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escapes
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):
        return  # not ours to mend, and there are others
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if SHORTEST <= len(text) <= LONGEST:
                yield text


def order(text: str, seed: int = 0) -> bytes:
    """A key that puts texts into an arbitrary order, always the same for the same seed."""
    return hashlib.sha256(f"{seed} {text}".encode(errors="surrogatepass")).digest()
