"""Latency of exported models on the CPU, onnxruntime beside PyTorch: `python -m benchmarks.export_latency`.

Every model has the sizes of its recipe and random weights, which take as long as trained ones; its graph of raw outputs
is exported with gathers and with `GridSample`, and run on one image. Medians over rounds in which all three take turns,
so that a busy moment of the machine affects all of them. Both libraries use --threads threads.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch

from errors import ArgumentParser, UserError, run_command
from experiment import load_experiment
from tools.export_onnx.graph import Graph, raw_graph
from tools.export_onnx.write import trace, write_onnx
from workflow.onnx_metadata import Metadata

MODELS = {
    "SegFormer-B1": ("seg_dysample", (512, 512)),
    "MaskFormer Swin-B": ("maskformer_swinb_dysample", (512, 512)),
    "Faster R-CNN R50": ("det_dysample", (800, 800)),
    "Mask R-CNN R50": ("inst_dysample", (800, 800)),
    "Panoptic FPN R50": ("pan_dysample", (800, 800)),
    "DepthFormer Swin-T": ("depth_dysample", (416, 544)),
}


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.export_latency", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in MODELS]:
        raise UserError(f"--models {unknown[0]}", "is not one of them", f"use one of {', '.join(MODELS)}")
    torch.set_num_threads(arguments.threads)
    rows = []
    print("| model | input | PyTorch ms | onnxruntime, gather ms | onnxruntime, GridSample ms |")
    print("|---|---|---|---|---|")
    for name in arguments.models:
        cfg, size = MODELS[name]
        medians = measure(cfg, size, arguments.threads, arguments.repeats)
        rows.append({"model": name, "size": size, "threads": arguments.threads, "milliseconds": medians})
        times = " | ".join(f"{medians[key]:,.0f}" for key in ("torch", "gather", "grid_sample"))
        print(f"| {name} | {size[0]} x {size[1]} | {times} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(cfg: str, size: tuple[int, int], threads: int, repeats: int) -> dict[str, float]:
    """The median milliseconds of PyTorch ("torch") and of both forms in onnxruntime."""
    settings = ["model.backbone.weights=null", "data.root=/nowhere"]
    experiment = load_experiment(Path(f"configs/{cfg}.yaml"), settings)
    model = experiment.build_model(pretrained=False).requires_grad_(False)
    graph = raw_graph(model, size)
    images = graph.inputs["images"]
    runs: dict[str, Callable[[], object]] = {"torch": lambda: graph.module(images)}
    for form in ("gather", "grid_sample"):
        session = _session(graph, form, threads)
        runs[form] = partial(session.run, None, {"images": images.numpy()})
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first is a warm-up


def _session(graph: Graph, form: str, threads: int) -> onnxruntime.InferenceSession:
    metadata = Metadata("raw", "", "", "", (), (), None, {}, "", None, form, None, "fp32")  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(trace(graph, metadata, dynamic=False), graph, path, 20 if form == "grid_sample" else 18)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    run_command(main)
