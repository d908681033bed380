"""Export a trained model, and prove the file: `python -m tools.export_onnx --checkpoint PATH --out FILE`.

PATH: a run folder, a checkpoint, converted weights (with --cfg), or the name of a published model. The suffix of FILE
chooses the format: .onnx; .pt2, a program of torch.export; .xml, an OpenVINO model. After writing, the file is run on
pictures of three sizes and compared with PyTorch; a file that differs is deleted. See docs/export.md.
"""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command
from tools.export_onnx import DEFAULT_OPSET
from tools.verify_export import compare


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.export_onnx", description=__doc__)
    parser.add_argument(
        "--checkpoint",
        "--model",
        type=Path,
        required=True,
        metavar="PATH",
        help="a checkpoint, the folder of a run, or the name of a published model",
    )
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
    return parse_with_overrides(parser, "settings that replace the model's own")


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import numpy as np

from experiment import Experiment
from models.base import DenseModel
from storage import replace_atomically
from structures import Size
from tools.export_onnx.full import full_graph
from tools.export_onnx.graph import Graph, check_dynamic, free_size, raw_graph
from tools.export_onnx.inputs import proof_inputs
from tools.export_onnx.metadata import describe_model
from tools.export_onnx.proof import Feeds, reference
from tools.export_onnx.write import Exported, check_format, export, files_of
from workflow.results import check_writable
from workflow.trained import find_checkpoint, load_trained


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    check_format(arguments.out)
    check_writable(arguments.out)
    if arguments.reference:
        check_writable(arguments.reference)
    path = find_checkpoint(arguments.checkpoint)
    experiment, model, _ = load_trained(path, arguments.cfg, arguments.overrides)
    model.eval().requires_grad_(False)
    graph = _graph(arguments, experiment, model)
    options = {"sampling": arguments.sampling, "precision": arguments.precision}
    metadata = describe_model(experiment, model, path, whole=arguments.full, **options)
    cases = []
    if arguments.reference or not arguments.no_verify:
        cases = proof_inputs(experiment, graph, model.size_divisor, dynamic=arguments.dynamic)
    done = export(
        graph,
        metadata,
        arguments.out,
        [] if arguments.no_verify else cases,
        dynamic=arguments.dynamic,
        opset=arguments.opset,
    )
    if arguments.reference:
        _write_reference(arguments.reference, graph, cases, arguments.precision)
    report = _report(arguments.out, graph, done, dynamic=arguments.dynamic)
    print(json.dumps(report) if arguments.json else describe(report), flush=True)


def _graph(arguments: Any, experiment: Experiment, model: DenseModel) -> Graph:
    if arguments.size and min(arguments.size) < 1:
        raise UserError("--size", "is not a height and a width", "give two numbers of at least 1")
    size: Size = tuple(arguments.size) if arguments.size else experiment.padded_input(model)
    if arguments.dynamic:
        check_dynamic(model)
        size = free_size(model, size)
    if arguments.full:
        return full_graph(model, size)
    return raw_graph(model, size, batch=2 if arguments.dynamic else 1)  # one is never taken for any number


def _report(path: Path, graph: Graph, done: Exported, *, dynamic: bool) -> dict[str, Any]:
    described = dataclasses.asdict(done.metadata)
    del described["config"]
    size = sum(file.stat().st_size for file in files_of(path))
    inputs = {name: _shape(graph, name, dynamic) for name in graph.inputs}
    more = {"file": str(path), "bytes": size, "nodes": done.nodes, "inputs": inputs, "outputs": list(graph.outputs)}
    return more | described


def _shape(graph: Graph, name: str, dynamic: bool) -> list[int | str]:
    names = graph.dynamic.get(name, {}) if dynamic else {}
    return [names.get(axis, length) for axis, length in enumerate(graph.inputs[name].shape)]


def _write_reference(path: Path, graph: Graph, cases: list[Feeds], precision: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    for index, inputs in enumerate(cases):
        arrays |= {f"{index}/inputs/{name}": value.numpy() for name, value in inputs.items()}
        arrays |= {f"{index}/outputs/{name}": value for name, value in reference(graph, inputs).items()}
    with replace_atomically(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, precision=np.array(precision), **arrays)


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
