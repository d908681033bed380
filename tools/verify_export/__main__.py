"""Compare a runtime with PyTorch on the target machine: `python -m tools.verify_export FILE.onnx --reference FILE.npz`.

Needs numpy, and onnxruntime or onnx; neither PyTorch nor a model. Without --reference: what the file says about itself,
and whether all its operators are ONNX's own. The reference is written by `tools.export_onnx --reference FILE.npz`:
inputs, and PyTorch's outputs for them. FILE is run by onnxruntime (--provider chooses how). For other runtimes,
--write-inputs DIR writes the inputs as raw files, and --outputs reads what the runtime wrote: one .npz file, or one
.json file of TensorRT's `trtexec --exportOutput`, for each input, in order. Exit code 2: the outputs differ.
"""

import json
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.verify_export", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the exported file")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="what PyTorch gave for the same input, as tools.export_onnx writes it",
    )
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime; default: %(default)s")
    parser.add_argument("--outputs", type=Path, nargs="+", metavar="FILE", help="of another runtime")
    parser.add_argument("--write-inputs", type=Path, metavar="DIR", help="and stop")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import numpy as np

from tools.verify_export.compare import TOLERANCES, compare, describe, worst
from tools.verify_export.operators import custom_operators

Case = dict[str, np.ndarray]


def read_reference(path: Path) -> tuple[str, list[tuple[Case, Case]]]:
    """The precision of an export, and its inputs with PyTorch's outputs. Raises UserError."""
    cases: dict[int, tuple[Case, Case]] = {}
    try:
        with np.load(path) as file:
            precision = str(file["precision"])
            for key in file.files:
                if key != "precision":
                    index, role, name = key.split("/", 2)
                    cases.setdefault(int(index), ({}, {}))[role == "outputs"][name] = file[key]
        if precision not in TOLERANCES or not cases or not all(feeds and wanted for feeds, wanted in cases.values()):
            raise ValueError("it lacks inputs, outputs or a known precision")
        return precision, [cases[index] for index in sorted(cases)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        what = f"is not a reference ({error})"
        raise UserError(path, what, "write it with tools.export_onnx --reference FILE.npz") from None


def run_onnx(path: Path, provider: str, inputs: list[Case]) -> Iterator[Case]:
    """The outputs of onnxruntime for each input. Raises UserError if it cannot run the file."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime", "not installed", "pip install onnxruntime") from None
    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise UserError(f"--provider {provider}", "is not in this onnxruntime", f"use one of {', '.join(known)}")
    try:
        session = onnxruntime.InferenceSession(path, providers=[provider])
        names = [output.name for output in session.get_outputs()]
        for feeds in inputs:
            yield dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # onnxruntime's own kinds
        raise UserError(
            path, f"cannot be run ({error})", "give a file of tools.export_onnx and its reference"
        ) from None


def read_outputs(path: Path) -> Case:
    """What another runtime wrote for one input: a .npz file, or trtexec's JSON. Raises UserError."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                return {name: file[name] for name in file.files}
        entries = json.loads(path.read_text())
        return {entry["name"]: _from_json(entry) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(path, f"holds no outputs ({error})", "give a .npz file or one of trtexec") from None


def _from_json(entry: dict[str, Any]) -> np.ndarray:
    shape = [int(side) for side in entry["dimensions"].split("x")]
    return np.array(entry["values"]).reshape(shape)


def write_inputs(folder: Path, cases: list[tuple[Case, Case]]) -> None:
    """Write every input as the raw bytes that `trtexec --loadInputs` reads: INDEX_NAME.bin. Raises UserError."""
    for index, (feeds, _) in enumerate(cases):
        words = []
        for name, value in feeds.items():
            path = folder / f"{index}_{name}.bin"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(value.tobytes())
            except OSError as error:
                what = f"cannot be written ({error.strerror})"
                raise UserError(f"--write-inputs {folder}", what, "name a folder that you may write") from None
            words.append(f"{name}:{path}")
        shapes = ",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items())
        print(f"--loadInputs={','.join(words)} --shapes={shapes}")


def report_file(path: Path) -> None:
    """Print what an ONNX file says about itself. Raises UserError if it has custom operators."""
    try:
        import onnx
    except ImportError:
        raise UserError("onnx", "not installed", "pip install onnx, or give --reference") from None
    keys = ("format", "task", "model", "upsampler", "sampling", "opset", "precision", "licence")
    try:
        model = onnx.load(path)
        said = json.loads({item.key: item.value for item in model.metadata_props}["denseup"])
        lines = [f"{key}: {said[key]}" for key in keys]
        if said["verified"]:
            lines.append(f"verified with {said['verified']['runtime']}:")
            lines += [f"  {describe(*item)}" for item in said["verified"]["differences"].items()]
        else:
            lines.append("verified: no (--no-verify)")
    except Exception as error:  # protobuf's classes differ between its versions
        what = f"is not a file of tools.export_onnx ({error!r})"
        raise UserError(path, what, "give one of its .onnx files") from None
    if custom := custom_operators(model):
        raise UserError(path, f"has operators that are not ONNX's own: {', '.join(custom)}", "export the model again")
    print("\n".join(lines))


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if arguments.reference is None:
        if arguments.outputs or arguments.write_inputs:
            raise UserError("--reference", "is needed", "name the file of tools.export_onnx --reference")
        report_file(arguments.file)
        return
    precision, cases = read_reference(arguments.reference)
    if arguments.write_inputs:
        write_inputs(arguments.write_inputs, cases)
        return
    if arguments.outputs and len(arguments.outputs) != len(cases):
        given = f"names {len(arguments.outputs)} files, and the reference has {len(cases)} inputs"
        raise UserError("--outputs", given, "name one file for each input, in order")
    tolerance, failed = TOLERANCES[precision], ""
    found: Iterable[Case] = map(read_outputs, arguments.outputs or [])
    if not arguments.outputs:
        found = run_onnx(arguments.file, arguments.provider, [feeds for feeds, _ in cases])
    for index, (outputs, (_, wanted)) in enumerate(zip(found, cases, strict=True)):
        differences = compare(outputs, wanted)
        print(f"input {index}:")
        print("\n".join(f"  {describe(*item)}" for item in differences.items()))
        name = worst(differences, tolerance)
        failed = failed or (f"input {index}, {describe(name, differences[name])}" if name else "")
    if failed:
        allowed = f"{tolerance['relative']:g} relative, {100 * tolerance['labels']:g} % of the labels"
        what = f"differs from PyTorch: {failed}; allowed are {allowed}"
        raise UserError(arguments.file, what, "do not deploy it; docs/export.md says what to try")
    print("agrees with PyTorch")


if __name__ == "__main__":
    run_command(main)
