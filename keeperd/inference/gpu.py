"""What NVIDIA's driver says of the first GPU, asked through libcuda itself.

Neither other way serves: torch takes seconds to load, and ONNX Runtime lists the providers that it was
compiled with, not what is there.
"""

from __future__ import annotations

import ctypes
import functools

NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE: all is well, there is just no GPU, or CUDA_VISIBLE_DEVICES hides it."""


@functools.cache
def _look() -> tuple[ctypes.CDLL | None, str | None]:
    """The driver's library where it has a GPU for this process; or why the driver does not start."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, None
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, NO_DEVICE):
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        return None, f"the driver does not start: {(text.value or b'no reason given').decode()}, error {code}"
    return (driver if count.value > 0 else None), None


def _driver() -> ctypes.CDLL | None:
    return _look()[0]


def here() -> bool:
    """Whether there is a GPU that this process may use."""
    return _driver() is not None


def fault() -> str | None:
    """Why a driver that is installed gives this process no GPU; None where it does, where there is
    none, and where CUDA_VISIBLE_DEVICES hides it. A limit on the address space is such a reason: CUDA
    reserves many times the memory that it uses."""
    return _look()[1]


def name() -> str | None:
    """What the GPU is called, None where there is none."""
    driver, text = _driver(), ctypes.create_string_buffer(256)
    if driver is None or driver.cuDeviceGetName(text, len(text), 0) != 0:
        return None
    return text.value.decode(errors="replace")


def used_mb() -> float | None:
    """MB in use on the GPU, by all programs together; None where there is none.

    The differences of two such figures in one process leave CUDA's own few hundred MB out: the context
    that the question needs is there both times.
    """
    driver = _driver()
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver is None or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) != 0:
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context) != 0:
            return None
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(0)
    return None if failed else round((total.value - free.value) / 1e6, 1)
