"""Export a trained model, and prove the file: `python -m tools.export_onnx --checkpoint PATH --out FILE`.

PATH: a run folder, a checkpoint, converted weights (with --cfg), or the name of a published model. The suffix of FILE
chooses the format: .onnx; .pt2, a program of torch.export; .xml, an OpenVINO model. After writing, the file is run on
pictures of three sizes and compared with PyTorch; a file that differs is deleted. See docs/export.md.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from errors import ArgumentParser, UserError, run_command
from experiment import Experiment
from models.base import DenseModel
from structures import Size
from tools.export_onnx import compare
from tools.export_onnx.graph import Graph, raw_graph
from tools.export_onnx.inputs import proof_inputs
from tools.export_onnx.metadata import describe_model
from tools.export_onnx.proof import prove, reference
from tools.export_onnx.write import (
    DEFAULT_OPSET,
    check_format,
    remove,
    set_metadata,
    trace,
    write_onnx,
    write_openvino,
)
from workflow.results import check_writable
from workflow.trained import find_checkpoint, load_trained


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="tools.export_onnx", description=__doc__)
    parser.add_argument("--checkpoint", "--model", type=Path, required=True, metavar="PATH")
    parser.add_argument("--cfg", type=Path, help="YAML file of converted weights; a checkpoint has its own")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends with .onnx, .pt2 or .xml")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: that of a training image")
    parser.add_argument("--dynamic", action="store_true", help="any number of images, of any size that the model takes")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help="of ONNX; default: %(default)s")
    parser.add_argument("--precision", choices=list(compare.TOLERANCES), default="fp32", help="default: %(default)s")
    parser.add_argument("--full", action="store_true", help="the whole prediction, not the model's raw outputs")
    parser.add_argument("--sampling", choices=["gather", "grid_sample"], default="gather", help="default: %(default)s")
    parser.add_argument("--no-verify", action="store_true", help="write the file without proof; it says so")
    parser.add_argument("--reference", type=Path, metavar="FILE.npz", help="for tools.verify_export on another machine")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace the model's own")
    arguments = parser.parse_intermixed_args()
    check_format(arguments.out)
    check_writable(arguments.out)
    if arguments.reference:
        check_writable(arguments.reference)
    path = find_checkpoint(arguments.checkpoint)
    experiment, model, _ = load_trained(path, arguments.cfg, arguments.overrides)
    model.eval().requires_grad_(False)
    graph = _graph(arguments, experiment, model)
    report = export(arguments, experiment, model, graph, path)
    print(json.dumps(report) if arguments.json else describe(report), flush=True)


def _graph(arguments: Any, experiment: Experiment, model: DenseModel) -> Graph:
    if arguments.size and min(arguments.size) < 1:
        raise UserError("--size", "is not a height and a width", "give two numbers of at least 1")
    size: Size = tuple(arguments.size) if arguments.size else experiment.padded_input(model)
    if arguments.full:
        raise UserError("--full", "is not possible yet", "export the raw outputs")
    return raw_graph(model, size, batch=2 if arguments.dynamic else 1)  # one is never taken for any number


def export(arguments: Any, experiment: Experiment, model: DenseModel, graph: Graph, checkpoint: Path) -> dict[str, Any]:
    """Trace, write and prove; the report. Raises UserError if that fails, and leaves no file then."""
    out, options = arguments.out, {"sampling": arguments.sampling, "precision": arguments.precision}
    metadata = describe_model(experiment, model, checkpoint, whole=arguments.full, **options)
    program = trace(graph, dynamic=arguments.dynamic, **options)
    nodes = sum(node.op == "call_function" for node in program.graph.nodes)
    try:
        source = program
        if out.suffix == ".pt2":
            set_metadata(out, metadata, program)
        else:
            metadata = dataclasses.replace(metadata, opset=arguments.opset)
            with tempfile.TemporaryDirectory() as folder:
                path = out if out.suffix == ".onnx" else Path(folder) / "model.onnx"
                written, source = write_onnx(program, graph, path, arguments.opset)
                nodes = len(written.graph.node)
                if out.suffix == ".xml":
                    write_openvino(path, out)
            set_metadata(out, metadata, program)
        cases = proof_inputs(experiment, graph, model.size_divisor, dynamic=arguments.dynamic)
        if arguments.no_verify:
            kept = [
                ({k: v.numpy() for k, v in case.items()}, reference(graph, case))
                for case in cases[: 3 * bool(arguments.reference)]
            ]
        else:
            verified, kept = prove(out, graph, cases, arguments.precision, source)
            metadata = dataclasses.replace(metadata, verified=verified)
            set_metadata(out, metadata, program)
    except BaseException:
        remove(out)
        raise
    if arguments.reference:
        _write_reference(arguments.reference, kept, arguments.precision)
    described = dataclasses.asdict(metadata)
    inputs = {name: _shape(graph, name, arguments.dynamic) for name in graph.inputs}
    size = out.stat().st_size + (out.with_suffix(".bin").stat().st_size if out.suffix == ".xml" else 0)
    more = {"file": str(out), "bytes": size, "nodes": nodes, "inputs": inputs, "outputs": list(graph.outputs)}
    return more | {key: described[key] for key in described if key != "config"}


def _shape(graph: Graph, name: str, dynamic: bool) -> list[int | str]:
    names = graph.dynamic.get(name, {}) if dynamic else {}
    return [names.get(axis, length) for axis, length in enumerate(graph.inputs[name].shape)]


def _write_reference(path: Path, kept: list[Any], precision: str) -> None:
    arrays = {
        f"{index}/{role}/{name}": value
        for index, pair in enumerate(kept)
        for role, values in zip(("inputs", "outputs"), pair, strict=True)
        for name, value in values.items()
    }
    with path.open("wb") as file:
        np.savez(file, precision=np.array(precision), **arrays)


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    kind = "the whole prediction" if report["format"] == "full" else "raw outputs"
    opset = f", opset {report['opset']}" if report["opset"] else ""
    lines = [
        f"{report['file']}: {report['bytes'] / 1e6:.1f} MB, {report['nodes']} nodes{opset}, {report['precision']}",
        f"  {kind} of {report['model']} with {report['upsampler']}, sampling by {report['sampling']}",
        *(f"  input {name}: {' x '.join(map(str, shape))}" for name, shape in report["inputs"].items()),
        f"  outputs: {', '.join(report['outputs'])}",
        f"  licence of the weights: {report['licence'] or 'not known'}",
    ]
    verified = report["verified"]
    if not verified:
        return "\n".join([*lines, "  not verified (--no-verify)"])
    sizes = ", ".join(" x ".join(map(str, size)) for size in verified["inputs"])
    lines += [f"  verified with {verified['runtime']} on inputs of {sizes}; the largest differences from PyTorch:"]
    return "\n".join([*lines, *(f"    {compare.describe(*item)}" for item in verified["differences"].items())])


if __name__ == "__main__":
    run_command(main)
