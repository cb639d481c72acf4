"""An ONNX file -> a session that may be trusted: the very bytes that were accepted, no data from
outside the version folder, on a provider that is really there.

ONNX can name further files ("external data") by any path, and ONNX Runtime reads a hard link to a
foreign file as if it were its own (CVE-2024-27318, CVE-2025-51480 and their kin). So every file is
opened once without following a link, must be plain and have one name, and is hashed; then the session
reads that same open file.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import logging
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from keeperd.api import BadInputError
from keeperd.inference import gpu

log = logging.getLogger(__name__)

VERSION = str(ort.__version__)
"""Of ONNX Runtime, under whichever name it is installed."""

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Names in the configuration -> ONNX Runtime's, best first."""

ERRORS = (
    errors.EPFail,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoModel,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
)
"""What ONNX Runtime raises for a model that it cannot load or run; its errors have no common base."""


class NoProviderError(BadInputError):
    """The GPU that is wanted is not here, or ONNX Runtime cannot use it; the file is not to blame."""


ATTENTION = 1 | 2 | 4 | 16 | 32 | 64
"""Kernels for attention on the GPU: all that ONNX Runtime may take, but cuDNN's (8). That one is preferred
from compute capability 9.0 on and builds a plan for each pair of batch size and length when it first meets
it: 40 to 70 ms a time on an H200, where an answer takes one."""

DEVICE_FAILURE = re.compile(r"(CU[A-Z]+ failure|Failed to allocate memory|Available memory)[^;\n]*")
"""What ONNX Runtime says when memory is short or the GPU has a fault."""

Hashes = Mapping[Path, str]
"""sha256 hex of every file that may be loaded."""


def default_threads() -> int:
    """CPU threads of a worker: OMP_NUM_THREADS, which its starter sets, else all cores it may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else len(os.sched_getaffinity(0))


def usable(wanted: Sequence[str]) -> list[str]:
    """Those of the wanted providers ("tensorrt", "cuda", "cpu") that may work here, best first."""
    compiled = set(ort.get_available_providers())
    return [name for name in wanted if PROVIDERS[name] in compiled and (name == "cpu" or gpu.here())]


def not_above(accepted: str, wanted: Sequence[str]) -> list[str]:
    """Those of the wanted providers that are no better than the accepted one; that one if none is."""
    rank = list(PROVIDERS).index
    return [name for name in wanted if rank(name) >= rank(accepted)] or [accepted]


@contextlib.contextmanager
def open_plain(path: Path, sha256: str | None = None) -> Iterator[int]:
    """A descriptor of a plain file with one name and, where it is given, this hash.

    Raises:
        BadInputError: it is missing, a link, a hard link, no file at all, or changed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadInputError(f"{path}: not opened ({error.strerror}); restore it or roll back") from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            kind = "has another name (hard link)" if stat.S_ISREG(info.st_mode) else "is no plain file"
            raise BadInputError(f"{path}: {kind}; a version folder holds plain files of its own only")
        if sha256 is not None and _sha256(fd) != sha256:
            raise BadInputError(f"{path}: changed after it was accepted; restore it or roll back")
        yield fd
    finally:
        os.close(fd)


def read_plain(path: Path, sha256: str | None = None) -> bytes:
    """The bytes of such a file.

    Raises:
        BadInputError: see `open_plain`.
    """
    with open_plain(path, sha256) as fd, open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def external_files(model: Path) -> list[Path]:
    """The further files that an ONNX file names, all of them beside it.

    Raises:
        BadInputError: it is no ONNX file, or names a place outside its own folder.
    """
    with open_plain(model) as fd:
        return _external_files(model, fd)


def open_session(
    model: Path, hashes: Hashes | None = None, providers: Sequence[str] = ("cpu",), threads: int = 0
) -> Any:
    """An `onnxruntime.InferenceSession`; on which provider it runs, `provider_of` tells.

    Args:
        model: an ONNX file.
        hashes: where given, it and each file that it names must be among these, unchanged.
        providers: where it should run, best first; what is missing is passed over.
        threads: CPU threads; 0: see `default_threads`.

    A provider that is here but does not work is passed over too, with a warning that says why.

    Raises:
        BadInputError: the file is damaged, changed, a link, or names files outside its folder.
        NoProviderError: none of the providers is here or works.
    """
    names = usable(providers)
    if set(providers) - {"cpu"} and (fault := gpu.fault()):
        log.warning("%s: no GPU (%s)", model.name, fault)
    if not names:
        raise NoProviderError(f"{model}: none of {', '.join(providers)} is here; add cpu to export.providers")
    with open_plain(model, expected_hash(model, hashes)) as fd:
        beside = _external_files(model, fd)
        for path in beside:
            with open_plain(path, expected_hash(path, hashes)):
                pass  # opened only to be checked
        # Through the descriptor the session reads the file that was hashed, whatever happens to its
        # name. External data are looked for beside the model, so there the path is needed.
        source = str(model) if beside else f"/proc/self/fd/{fd}"
        return _first_that_works(model, source, names, threads or default_threads())


def _first_that_works(model: Path, source: str, names: Sequence[str], threads: int) -> Any:
    for number, name in enumerate(names):
        graph_is_to_blame = False
        try:
            session = _make_session(source, names[number:], threads)
        except (*ERRORS, RuntimeError, ValueError) as error:
            reason = _why_not_loaded(name) or _reason(error)
            graph_is_to_blame = reason == _reason(error) and not DEVICE_FAILURE.match(reason)
        else:
            if provider_of(session) == name:
                return session
            del session
            reason = _why_not_loaded(name) or "ONNX Runtime gives no reason"
        if name != names[-1]:
            log.warning("%s: %s does not work here (%s); trying the next", model.name, name, reason)
    if graph_is_to_blame:
        raise BadInputError(f"{model}: not loaded ({reason}); export it again")
    raise NoProviderError(
        f"{model}: {name} does not work here ({reason}); mend it, or add cpu to export.providers"
    )


def _reason(error: Exception) -> str:
    """An error of ONNX Runtime in one line, without the place in its source where CUDA's come from."""
    text = str(error).strip()
    if found := DEVICE_FAILURE.search(text):
        return found[0].strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def provider_of(session: Any) -> str:
    """ "tensorrt", "cuda" or "cpu": where the session really runs."""
    first = session.get_providers()[0]
    return next(name for name, long in PROVIDERS.items() if long == first)


def trim() -> None:
    """Give freed memory back to the system: after a session is dropped, glibc keeps most of it."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if release is not None:
        release(0)


def _make_session(source: str, names: Sequence[str], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads sleep: spinning costs five times the CPU time at ten requests a second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Shapes differ from batch to batch; a plan remembered for each would only grow.
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    # fp32 means fp32: what may be less exact is an artefact of its own.
    settings = {"cuda": {"use_tf32": "0", "sdpa_kernel": str(ATTENTION)}}
    providers = [(PROVIDERS[name], settings.get(name, {})) for name in names]
    if list(names) == ["cpu"]:
        return ort.InferenceSession(source, options, providers=providers)
    # To be asked where each node runs; see `placement`.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Why a GPU does not work is told by `_why_not_loaded`, in one line and not by banners.
    ort.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls(msvc=False)
        # The fallback would go on with the CPU after any failure of the GPU, and print that it does.
        return ort.InferenceSession(source, options, providers=providers, enable_fallback=0)
    finally:
        ort.set_default_logger_severity(2)


def _why_not_loaded(name: str) -> str | None:
    """Why a provider's library cannot be loaded: mostly one of CUDA's is missing or of another version.
    None where it can. ONNX Runtime has tried just before, and says the reason in its log alone."""
    if name == "cpu":
        return None
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).splitlines()[0][:300]
    return None


def placement(session: Any) -> dict[str, list[str]]:
    """Provider ("tensorrt", "cuda", "cpu") -> operators that it runs, one name a node, sorted. Known of
    sessions that asked for a GPU; {} of others."""
    short = {long: name for name, long in PROVIDERS.items()}
    found: dict[str, list[str]] = {}
    if provider_of(session) != "cpu":
        for part in session.get_provider_graph_assignment_info():
            where = short.get(part.ep_name, part.ep_name)
            found.setdefault(where, []).extend(node.op_type for node in part.get_nodes())
    return {name: sorted(operators) for name, operators in found.items()}


def expected_hash(path: Path, hashes: Hashes | None) -> str | None:
    """The hash that a file must have, None where none are given.

    Raises:
        BadInputError: hashes are given, but none of this file.
    """
    if hashes is None:
        return None
    if path not in hashes:
        raise BadInputError(f"{path}: is not in the manifest; restore the version or roll back")
    return hashes[path]


def _sha256(fd: int) -> str:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _external_files(model: Path, fd: int) -> list[Path]:
    if os.fstat(fd).st_size == 0:
        raise BadInputError(f"{model}: empty; export it again")
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content:
        # External data always have a key of this name, in plain bytes. Without it the file need not
        # be parsed, which takes the onnx library and twice the file's size in memory.
        if content.find(b"location") < 0:
            return []
        places = sorted(set(_locations(model, content[:])))
    folder = model.parent.resolve()
    for place in places:
        if Path(place).name != place or (folder / place).resolve().parent != folder:
            raise BadInputError(f"{model}: names data outside its folder ({place[:100]!r}); export it again")
    return [model.parent / place for place in places]


def _locations(model: Path, content: bytes) -> Iterator[str]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        proto = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise BadInputError(f"{model}: no ONNX file; export it again") from error
    yield from _values_of_location(proto)


def _values_of_location(message: Any) -> Iterator[str]:
    """The external data keys "location" anywhere below a protobuf message: initialisers, constants,
    sparse tensors, attributes of nodes, graphs inside nodes, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        several = [value] if hasattr(value, "ListFields") else value
        if field.name == "external_data":
            yield from (entry.value for entry in several if entry.key == "location")
        else:
            for inner in several:
                yield from _values_of_location(inner)
