"""Exporter "onnx": a plain fp32 graph, an int8 one for the CPU, a fused fp16 one for the GPU.

Measured on one CPU thread with a six-layer encoder: the int8 graph answers 2 to 3 times as fast as the
fp32 one and is a quarter of its size; fusions gain the CPU next to nothing, and dynamic quantisation of
a fused graph is slower than of the plain one, so the two are kept apart. On a GPU (H200, the same encoder)
the fused fp16 graph takes half the time of the plain fp32 one for one text, a fifth for large
batches; `bench/gpu.py` measures it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keeperd import api
from keeperd_plugins import _noise

if TYPE_CHECKING:
    import torch

OPSET = 20
LEGACY_OPSET = 17
ATTEMPTS = ("dynamo", "dynamo with eager attention", "TorchScript with eager attention")
TOLERANCE = 1e-3
"""Largest difference of an output, relative to the largest value: real faults are off by far more."""


class OnnxOptions(api.Options):
    """What is made."""

    precisions: tuple[Literal["fp32", "int8", "fp16"], ...] = Field(
        ("fp32", "int8", "fp16"),
        min_length=1,
        description="artefacts that are made: fp32 (everywhere), int8 (for the CPU), fp16 (for the GPU)",
    )
    cuda: Literal["auto", "always"] = Field(
        "auto", description="when fp16 is made: auto (there is a GPU here), always (it serves elsewhere)"
    )
    single_file: int = Field(
        1_500_000_000,
        ge=0,
        le=1_900_000_000,
        description="bytes of weights from which they get a file of their own beside the graph",
    )


class OnnxExporter(api.Exporter[OnnxOptions]):
    """PyTorch -> ONNX by torch.export, then dynamic quantisation and fusion of the plain graph."""

    name = "onnx"
    Options = OnnxOptions

    def export(self, spec: api.OnnxSpec, out: Path, context: api.Context) -> list[api.Artefact]:
        """Write model.onnx, model.int8.onnx and model.fp16.onnx, as far as they are wanted.

        Raises:
            PluginError: no way of exporting gives a graph that answers as the model does.
            Stopped: `context.should_stop()` said so.
        """
        wanted = self.options.precisions
        large = sum(p.numel() * 4 for p in spec.module.parameters()) > self.options.single_file
        plain = (out if "fp32" in wanted else context.workdir) / "model.onnx"
        artefacts = []
        with _noise.quiet(context.log):
            how = _export_plain(spec, plain, large, context)
            if "fp32" in wanted:
                artefacts.append(api.Artefact("model.onnx", "fp32"))
            if "int8" in wanted:
                _pause(context, 0.6, "int8")
                _quantise(plain, out / "model.int8.onnx", large)
                artefacts.append(api.Artefact("model.int8.onnx", "int8", "cpu"))
            if "fp16" in wanted and (self.options.cuda == "always" or _cuda_here()):
                _pause(context, 0.8, "fp16")
                fused = _fuse(spec, plain, context.workdir / "fused.onnx", large, context)
                _halve(fused, out / "model.fp16.onnx", large)
                artefacts.append(api.Artefact("model.fp16.onnx", "fp16", "cuda"))
            _check(out / artefact.file for artefact in artefacts)
        context.log.info("exported by %s", how)
        if not artefacts:
            raise api.PluginError(
                'options.onnx: only fp16 is wanted and there is no GPU; set cuda = "always" or add fp32'
            )
        return artefacts


def _pause(context: api.Context, fraction: float, text: str) -> None:
    context.progress(fraction, text)
    if context.should_stop():
        raise api.Stopped("export: stopped when asked to; nothing was kept")


def _cuda_here() -> bool:
    """ONNX Runtime lists the providers that it was compiled with; the driver tells what is there."""
    import onnxruntime

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    return found and "CUDAExecutionProvider" in onnxruntime.get_available_providers()


# --- fp32 -----------------------------------------------------------------------------------------


def _export_plain(spec: api.OnnxSpec, path: Path, large: bool, context: api.Context) -> str:
    """Write the plain graph by the first way that works; returns which."""
    import torch

    spec.module.eval()
    refused = []
    for number, attempt in enumerate(ATTEMPTS):
        _pause(context, 0.1 + number / 10, attempt)
        try:
            with torch.no_grad():
                if number == 1:
                    _use_eager_attention(spec.module)
                if number < 2:
                    _by_dynamo(spec, path, large)
                else:
                    _by_torchscript(spec, path)
                wrong = _wrong_answer(spec, path)
        except Exception as error:  # noqa: BLE001 - torch and its passes raise errors of every kind
            wrong = _first_line(error)
        if wrong is None:
            return attempt
        context.log.warning("not exported by %s: %s", attempt, wrong)
        refused.append(f"{attempt}: {wrong}")
    raise api.PluginError(f"this model cannot be exported to ONNX ({'; '.join(refused)}); use another model")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200] if text else 'no reason given'}"


def _by_dynamo(spec: api.OnnxSpec, path: Path, large: bool) -> None:
    import onnx_ir
    import torch
    from onnx_ir.passes import common

    program = torch.onnx.export(
        spec.module,
        spec.inputs,
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        dynamic_shapes=tuple(dict(spec.dynamic_axes[name]) for name in spec.input_names),
        input_names=list(spec.input_names),
        output_names=list(spec.output_names),
    )
    if program is None:
        raise api.PluginError("torch.onnx.export returned nothing")
    # Inner values are named after operators, so an output "embedding" would meet that of an embedding.
    common.NameFixPass()(program.model)
    # Source paths of the exporting machine, and different bytes for the same model elsewhere.
    common.ClearMetadataAndDocStringPass()(program.model)
    onnx_ir.save(program.model, path, external_data=f"{path.name}.data" if large else None)


def _by_torchscript(spec: api.OnnxSpec, path: Path) -> None:
    import torch

    torch.onnx.export(
        spec.module,
        spec.inputs,
        str(path),
        dynamo=False,
        opset_version=LEGACY_OPSET,
        dynamic_axes={
            **{name: dict(axes) for name, axes in spec.dynamic_axes.items()},
            **{name: {0: "batch"} for name in spec.output_names},
        },
        input_names=list(spec.input_names),
        output_names=list(spec.output_names),
    )


def _use_eager_attention(module: torch.nn.Module) -> None:
    part: Any
    for part in module.modules():
        if hasattr(part, "set_attn_implementation"):
            part.set_attn_implementation("eager")


def _wrong_answer(spec: api.OnnxSpec, path: Path) -> str | None:
    """Where the graph answers otherwise than the module, at the example's shape and two others, or
    None. Some ways of exporting freeze the example's shape without a word."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sizes = {axis: n for name, axis, n in _named_sizes(spec)}
    for wanted in (
        sizes,
        dict.fromkeys(sizes, 1),
        {axis: n + 1 if axis == "batch" else max(1, n // 2) for axis, n in sizes.items()},
    ):
        inputs = [
            _resized(tensor, {number: wanted[axis] for number, axis in spec.dynamic_axes[name].items()})
            for name, tensor in zip(spec.input_names, spec.inputs, strict=True)
        ]
        expected = spec.module(*inputs)
        feeds = {name: tensor.numpy() for name, tensor in zip(spec.input_names, inputs, strict=True)}
        found = session.run(list(spec.output_names), feeds)
        for name, right, answer in zip(spec.output_names, expected, found, strict=True):
            gap = (right - torch.from_numpy(answer)).abs().max().item()
            if not gap <= TOLERANCE * max(1.0, right.abs().max().item()):
                return f"output {name} is off by {gap:.2g} at {wanted}"
    return None


def _named_sizes(spec: api.OnnxSpec) -> Iterator[tuple[str, str, int]]:
    for name, tensor in zip(spec.input_names, spec.inputs, strict=True):
        for number, axis in spec.dynamic_axes[name].items():
            yield name, axis, tensor.shape[number]


def _resized(tensor: torch.Tensor, sizes: dict[int, int]) -> torch.Tensor:
    """The tensor cut or repeated to these sizes."""
    for axis, size in sizes.items():
        times = [1] * tensor.ndim
        times[axis] = -(-size // tensor.shape[axis])
        tensor = tensor.repeat(times).narrow(axis, 0, size)
    return tensor.contiguous()


# --- int8 and fp16 --------------------------------------------------------------------------------


def _quantise(plain: Path, path: Path, large: bool) -> None:
    """Weights in int8 with a scale a column, activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(plain)
    # Shapes that torch.export recorded for weights make the quantiser fail.
    del model.graph.value_info[:]
    # Or else it advises, on the root logger, a step that does not help these graphs.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    quantize_dynamic(
        model,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=large,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )


def _fuse(spec: api.OnnxSpec, plain: Path, fused: Path, large: bool, context: api.Context) -> Path:
    """The graph with attention, layer norms and activations as ONNX Runtime's own operators, or the
    plain one where the fusions break it: they do so with some decoders."""
    import onnx_ir
    import torch
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    try:
        model, _ = optimize_for_ort(onnx_ir.load(plain))
        onnx_ir.save(model, fused, external_data=f"{fused.name}.data" if large else None)
        with torch.no_grad():
            wrong = _wrong_answer(spec, fused)
    except Exception as error:  # noqa: BLE001 - rewriting rules and the runtime raise errors of every kind
        wrong = _first_line(error)
    if wrong is None:
        return fused
    context.log.warning("fp16 without fusions, which break this graph: %s", wrong)
    return plain


def _halve(graph: Path, path: Path, large: bool) -> None:
    """fp16 inside; inputs and outputs stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(str(graph), keep_io_types=True)
    onnx.save(half, path, save_as_external_data=large, location=f"{path.name}.data")


def _check(paths: Iterable[Path]) -> None:
    import onnx

    for path in paths:
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise api.PluginError(f"{path.name}: invalid ONNX ({error}); leave this precision out") from error


@api.hookimpl
def keeperd_components() -> Iterable[type[api.Component[Any]]]:
    """The exporter of this plugin."""
    return [OnnxExporter]
