"""The proof of an exported file: it is run on several inputs, and its outputs are compared with PyTorch's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from errors import UserError
from tools.export_onnx.graph import Graph
from tools.export_onnx.runtimes import Case, Runtime, node_values, open_runtime
from tools.verify_export.compare import TOLERANCES, compare, describe, worst

Feeds = dict[str, Tensor]


@torch.inference_mode()
def reference(graph: Graph, inputs: Feeds) -> Case:
    """PyTorch's own outputs, by name, always of float32 and with its own `grid_sample`."""
    outputs = graph.module(*inputs.values())
    return {name: value.numpy() for name, value in zip(graph.outputs, outputs, strict=True)}


def prove(path: Path, graph: Graph, cases: Sequence[Feeds], precision: str, program: ExportedProgram) -> dict[str, Any]:
    """Run a written file on all cases. Returns the report for its metadata.

    program: what the file was made from. Raises UserError, with the first node that differs, beyond the tolerance.
    """
    tolerance, runtime = TOLERANCES[precision], open_runtime(path, graph.outputs)
    greatest: dict[str, dict[str, Any]] = {}
    for inputs in cases:
        feeds, wanted = {name: value.numpy() for name, value in inputs.items()}, reference(graph, inputs)
        try:
            found = runtime.run(feeds)
        except Exception as error:  # of the runtime's own kind
            size = " x ".join(map(str, next(iter(inputs.values())).shape))
            what = f"{runtime.name} cannot run it for an input of {size} ({str(error).strip()}); it was removed"
            raise UserError(path, what, "choose another --sampling, --opset or --size") from None
        differences = compare(found, wanted)
        if (name := worst(differences, tolerance)) is not None:
            where = first_difference(runtime, program, graph, feeds, tolerance["relative"])
            what = f"differs from PyTorch at {where} ({describe(name, differences[name])}); it was removed"
            advice = "use --precision fp32" if precision == "fp16" else "choose another --sampling, --opset or --size"
            raise UserError(path, what, advice)
        greatest = {name: _greater(greatest.get(name, each), each) for name, each in differences.items()}
    sizes = [list(next(iter(inputs.values())).shape) for inputs in cases]
    return {"runtime": runtime.name, "inputs": sizes, "tolerance": tolerance, "differences": greatest}


def _greater(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: [value for value in (one[key], other[key]) if value is not None] for key in one}
    return {key: max(values, default=None) for key, values in both.items()}


def first_difference(runtime: Runtime, program: ExportedProgram, graph: Graph, feeds: Case, tolerance: float) -> str:
    """The first node whose value differs from that of the same name in the program, with the operator that makes it."""
    # Files have our names for outputs, programs those of the nodes that compute them.
    own = dict(zip(graph.outputs, (value.arg.name for value in program.graph_signature.output_specs), strict=True))
    known = {node.name for node in program.graph.nodes}
    nodes = {name: label for name, label in runtime.nodes().items() if own.get(name, name) in known}
    wanted = node_values(program, feeds, {own.get(name, name) for name in nodes})
    names = [name for name in nodes if own.get(name, name) in wanted]
    found = runtime.values(feeds, names)
    for name in names:
        difference = compare({name: found[name]}, {name: wanted[own.get(name, name)]})[name]
        if not difference["relative"] <= tolerance or (difference["labels"] or 0) > tolerance:
            return f"node {nodes[name]}, whose output is {name}"
    return "an output, but at no node before it"
