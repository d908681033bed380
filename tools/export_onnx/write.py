"""Trace a graph, and write it as an ONNX file, a program of torch.export, or an OpenVINO model."""

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from errors import UserError
from tools.export_onnx import DEFAULT_OPSET
from tools.export_onnx.graph import Graph
from tools.export_onnx.proof import Feeds, prove
from tools.verify_export.operators import custom_operators, nodes_of
from upsamplers.sampling import sampling_form
from workflow.onnx_metadata import KEY, Metadata, require

SUFFIXES = (".onnx", ".pt2", ".xml")
MAX_BYTES = 2**31 - 2**20  # of a file in the format of protobuf


class _Autocast(nn.Module):
    """A module as mixed precision runs it: products in float16; positions, boxes and the like in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for layer in module.modules():
            if isinstance(
                layer, nn.LayerNorm | nn.GroupNorm
            ):  # ONNX wants one type for x and weights; CUDA does so, too
                layer.register_forward_pre_hook(lambda _, inputs: tuple(each.float() for each in inputs))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs keep the types that they have in float32."""
        with torch.autocast("cpu", torch.float16, cache_enabled=False):
            outputs = self.module(*inputs)
        return tuple(output.float() if output.is_floating_point() else output for output in outputs)


@dataclass(frozen=True)
class Exported:
    """What has been written. nodes: their number in the graph."""

    metadata: Metadata
    nodes: int


def export(
    graph: Graph, metadata: Metadata, path: Path, cases: Sequence[Feeds], *, dynamic: bool, opset: int = DEFAULT_OPSET
) -> Exported:
    """Trace, write and prove. metadata: of the graph, with the precision and the form of sampling to use.

    cases: the inputs to prove it with; without any the file says that it is not verified. Raises UserError if one of
    these steps fails, and leaves no file then.
    """
    program = source = trace(graph, metadata, dynamic=dynamic)
    nodes = sum(node.op == "call_function" for node in program.graph.nodes)
    try:
        if path.suffix != ".pt2":
            metadata = replace(metadata, opset=opset)
            with tempfile.TemporaryDirectory() as folder:
                onnx_path = path if path.suffix == ".onnx" else Path(folder) / "model.onnx"
                nodes, source = write_onnx(program, graph, onnx_path, opset)
                if path.suffix == ".xml":
                    write_openvino(onnx_path, path)
        set_metadata(path, metadata, program)
        if cases:
            metadata = replace(metadata, verified=prove(path, graph, cases, metadata.precision, source))
            set_metadata(path, metadata, program)
    except BaseException:
        for file in files_of(path):
            file.unlink(missing_ok=True)
        raise
    return Exported(metadata, nodes)


def check_format(path: Path) -> None:
    """Raise UserError unless the suffix is one of a format whose library is installed."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path}", "is not the name of a model", f"end it with {', '.join(SUFFIXES)}")
    if path.suffix != ".pt2":
        require("onnx", "onnxscript", "onnxruntime")
    if path.suffix == ".xml":
        require("openvino")


@torch.no_grad()
def trace(graph: Graph, metadata: Metadata, *, dynamic: bool) -> ExportedProgram:
    """The graph as a program of torch.export. Raises UserError if PyTorch cannot trace it."""
    module = graph.module if metadata.precision == "fp32" else _Autocast(graph.module)
    shapes: Any = tuple(_dims(graph.dynamic.get(name, {})) or None for name in graph.inputs) if dynamic else None
    if metadata.precision == "fp16":
        shapes = (shapes,) if dynamic else None  # the inputs of *args are one argument
    try:
        with sampling_form(metadata.sampling), _quiet():
            return torch.export.export(module, tuple(graph.inputs.values()), dynamic_shapes=shapes)
    except Exception as error:  # PyTorch has no common class for what it cannot trace
        what = f"cannot be traced ({type(error).__name__}: {str(error).strip()})"
        if dynamic:
            raise UserError("--dynamic", what, "export one size instead: --size HEIGHT WIDTH") from error
        raise UserError("model", what, "docs/export.md lists what cannot be exported") from error


def _dims(axes: dict[int, str]) -> dict[int, Any]:
    """torch.export's names for axes: "batch", "32*height"."""
    found: dict[int, Any] = {}
    for axis, text in axes.items():
        factor, _, name = text.rpartition("*")
        found[axis] = int(factor) * Dim(name) if factor else Dim(name)
    return found


def write_onnx(program: ExportedProgram, graph: Graph, path: Path, opset: int) -> tuple[int, ExportedProgram]:
    """Write an ONNX file. Returns the number of its nodes, and a program whose values have the same names.

    Raises UserError if the opset, the size or an operator is not possible.
    """
    import onnx

    inputs, outputs = list(graph.inputs), list(graph.outputs)
    try:
        with _quiet():
            written = torch.onnx.export(
                program, dynamo=True, opset_version=opset, input_names=inputs, output_names=outputs, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        what = f"cannot be written as ONNX ({str(cause).strip()})"
        raise UserError(path, what, "give --size instead of --dynamic, or export a .pt2 file") from error
    assert written is not None
    assert written.exported_program is not None
    size = sum(value.const_value.nbytes for value in written.model.graph.initializers.values() if value.const_value)
    if size > MAX_BYTES:
        raise UserError(path, f"would have {size / 1e9:.1f} GB, ONNX files end at 2 GB", "export a .pt2 file")
    model = written.model_proto
    got = {each.domain: each.version for each in model.opset_import}.get("", 0)
    if got != opset:
        raise UserError(f"--opset {opset}", f"PyTorch writes opset {got} for this model", f"use --opset {got}")
    if custom := custom_operators(model):
        what = f"needs operators that are not ONNX's own: {', '.join(custom)}"
        raise UserError(path, what, "docs/export.md lists what cannot be exported")
    for node in model.graph.node:  # traces of the exporting machine's files
        scopes = [item for item in node.metadata_props if item.key == "namespace"]
        del node.metadata_props[:]
        node.metadata_props.extend(scopes)
    _name_axes(model, graph)
    _cast_weights(model)
    onnx.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(path, f"would not be a valid ONNX file ({error})", "export a .pt2 file") from None
    return len(model.graph.node), written.exported_program


def _name_axes(model: Any, graph: Graph) -> None:
    """Call axes by our names: PyTorch has s34 and 32*s89 where the graph has "batch" and "32*height"."""
    names = {}
    for value in model.graph.input:
        for axis, text in graph.dynamic.get(value.name, {}).items():
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            names[symbol.rpartition("*")[2]] = text.rpartition("*")[2]
    names.pop("", None)  # of fixed sizes
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), side.dim_param)


def _cast_weights(model: Any) -> None:
    """Store weights in the type that products use: PyTorch leaves large ones in float32, with a Cast after them.

    Weights of convolutions that took in a batch norm are in float32 without a Cast, which is not valid beside float16.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = {value.name: value for value in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in weights]
    for node in casts:
        array = numpy_helper.to_array(weights[node.input[0]])
        dtype = helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
        model.graph.initializer.append(numpy_helper.from_array(array.astype(dtype), node.output[0]))
        model.graph.node.remove(node)
    values = {value.name: value.type.tensor_type for value in [*model.graph.value_info, *model.graph.input]}
    half = {name for name, value in values.items() if value.elem_type == TensorProto.FLOAT16}
    for node in model.graph.node:
        for name in node.input[1:] if node.op_type == "Conv" and node.input[0] in half else ():
            if name in weights and weights[name].data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(weights[name]).astype("float16")
                weights[name].CopyFrom(numpy_helper.from_array(array, name))
                if name in values:
                    values[name].elem_type = TensorProto.FLOAT16
    used = {name for node in nodes_of(model.graph) for name in node.input}
    for node in casts:
        if node.input[0] not in used and (value := weights.pop(node.input[0], None)) is not None:
            model.graph.initializer.remove(value)


def set_metadata(path: Path, metadata: Metadata, program: ExportedProgram) -> None:
    """Store the metadata in a file that is already written."""
    text = metadata.to_json()
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(path)
        kept = [item for item in model.metadata_props if item.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=KEY, value=text)
        onnx.save(model, path)
    elif path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={KEY: text})
    else:
        import openvino

        model = openvino.Core().read_model(path)
        model.set_rt_info(text, [KEY])
        # Reading keeps the weights' file open, so both are written beside it first.
        part = path.with_name(f"{path.stem}.part.xml")
        openvino.save_model(model, part, compress_to_fp16=False)
        del model
        part.replace(path)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))


def write_openvino(onnx_path: Path, path: Path) -> None:
    """Convert an ONNX file to an OpenVINO model: FILE.xml, and its weights in FILE.bin."""
    import openvino

    openvino.save_model(openvino.convert_model(onnx_path), path, compress_to_fp16=False)


def files_of(path: Path) -> list[Path]:
    """All files of a written model."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's messages about its own progress and its libraries' deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
