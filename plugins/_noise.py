"""Quiet while torch exports: what it says here means nothing to an operator, or goes to the log."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

EXPECTED: tuple[tuple[str, type[Warning]], ...] = (
    # torch.export's own use of a check that torch 2.13 deprecates
    (r"`isinstance\(treespec, LeafSpec\)`", FutureWarning),
    # ids and mask share their axes, so one of two equal names is used
    (r"# The axis name: .* will not be used", UserWarning),
    # the last resort is deprecated, which is why it is the last
    (r"You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    (r"The feature will be removed", DeprecationWarning),
)
"""Warnings that are known to mean nothing here; all others come through."""


@contextlib.contextmanager
def quiet(log: logging.Logger) -> Iterator[None]:
    """Without those warnings, and without the libraries' word on every rewritten node, thousands of
    lines. What torch prints when an attempt fails (half a graph) goes to `log`."""
    from torch.jit._trace import TracerWarning  # its public name carries no type

    # It misses torchvision, of which no text model has an operator.
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level, disabled = registration.level, logging.root.manager.disable
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(printed):
        for text, kind in EXPECTED:
            warnings.filterwarnings("ignore", message=text, category=kind)
        # A traced graph holds for one example; other shapes are tried afterwards.
        warnings.filterwarnings("ignore", category=TracerWarning)
        registration.setLevel(logging.ERROR)
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            registration.setLevel(level)
            logging.disable(disabled)
            if text := printed.getvalue().strip():
                log.info("printed while exporting: %s", text[:2000])
