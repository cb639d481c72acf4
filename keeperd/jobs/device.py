"""Where a job runs the torch model: on the GPU only if torch itself can use it. The worker asks the
driver alone, and torch may be a build without CUDA, or too new for the driver."""

from __future__ import annotations

from dataclasses import replace

from keeperd.api import Context, PluginError
from keeperd.jobs import Job


def usable(job: Job) -> Context:
    """The job's context, on the processor where the GPU is of no use to torch.

    Raises:
        PluginError: `device = "cuda"` is configured and cannot be kept to.
    """
    if job.context.device != "cuda":
        return job.context
    import torch

    if torch.cuda.is_available():
        return job.context
    if job.settings.device == "cuda":
        raise PluginError('device = "cuda", but torch finds no usable GPU; set device = "auto"')
    job.context.log.warning("there is a GPU, but torch cannot use it; running torch on the processor")
    return replace(job.context, device="cpu")
