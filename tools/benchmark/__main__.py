"""Latency and memory of every upsampler, beside the minimum time of the memory traffic: `python -m tools.benchmark`.

The default shape is that of the DySample paper's section 3.4 and Figs. 1 and 8: x 256 x 120 x 120, guide 256 x 240 x
240, one image, scale 2. "Forward" is in evaluation mode without gradients. "With backward" computes the gradients of x,
of the parameters and, if the upsampler uses it, of the guide. Latencies are medians with quartiles over `repeats`
rounds after a warm-up; every upsampler runs once in each round, so that a busy moment of the machine affects all of
them. On CUDA a call counts from an empty queue, so Python and launches count; beside it is the time "on device": the
same kernels replayed as a CUDA graph. Peak memory is the largest amount that PyTorch's allocator holds at once beyond
inputs and parameters; on CPU it is read from the profiler.

The floor is the time to read x and write the output once (with backward: and their gradients) at the bandwidth of a
large copy, measured in the same rounds. Tensors that fit into a cache can be faster. On CUDA "dysample (plain)" is
DySample without its Triton kernels.

--onnx FILE measures instead a file of tools.export_onnx: the latency of one image with onnxruntime, of the size that
the file takes or, if it takes any, of H x W of --shape.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

from errors import ArgumentParser, UserError, read_early, run_command
from tools.benchmark.options import DTYPES, FORMATS, REPEATS, RESULTS, SHAPE


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.benchmark", description=__doc__)
    parser.add_argument("--device", nargs="+", choices=["cpu", "cuda"], help="default: cuda, if there is one, else cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="default: float32")
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=("B", "C", "H", "W"), help="repeatable")
    parser.add_argument("--channels-last", action="store_true", help="maps in channels_last; default: contiguous")
    parser.add_argument("--repeats", type=int, help="measured rounds; default: 5 on CPU, 50 on CUDA")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS}/upsamplers_MACHINE_DATE.json")
    parser.add_argument("--chart", type=Path, metavar="FILE", help=" or ".join(FORMATS))
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="measure this exported file, not the upsamplers")
    arguments = parser.parse_args()
    if arguments.repeats is not None and arguments.repeats < 1:
        raise UserError(f"--repeats {arguments.repeats}", "is not a number of rounds", "use 1 or more")
    if arguments.chart and arguments.chart.suffix.lower() not in FORMATS:
        raise UserError(
            f"--chart {arguments.chart}", "is not the name of a chart", f"end it with {' or '.join(FORMATS)}"
        )
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import torch

from runtime.memory import keep_freed_memory
from tools.benchmark.measure import Setting, machine, measure
from tools.benchmark.onnx_file import describe_onnx, measure_onnx
from tools.benchmark.report import describe, draw_chart, results_path, save
from workflow.results import check_writable


def check_shape(shape: list[int], dtype: str, device: str) -> tuple[int, int, int, int]:
    """Check a shape and return it. Raises UserError if a number is too small, or if the tensors exceed the memory."""
    option = f"--shape {' '.join(map(str, shape))}"
    if min(shape) < 1 or min(shape[2:]) < 2:
        raise UserError(option, "is too small", "use 1 or more images and channels, 2 or more rows and columns")
    B, C, H, W = shape
    setting = Setting(device, dtype, (B, C, H, W))
    if device == "cuda":
        memory = torch.cuda.mem_get_info()[1]
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = 2 * setting.traffic  # x, guide, gradient and an output
    if needed > memory:
        what = f"needs more than {needed / 1e9:.3g} GB, the device has {memory / 1e9:.3g}"
        raise UserError(option, what, "use a smaller one")
    return setting.shape


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    devices = dict.fromkeys(arguments.device or ["cuda" if torch.cuda.is_available() else "cpu"])
    if "cuda" in devices and not torch.cuda.is_available():
        raise UserError("--device cuda", "PyTorch sees no CUDA device", "use cpu")
    if arguments.onnx:
        size = check_shape(arguments.shape[-1], "float32", "cpu")[2:] if arguments.shape else None
        measured = measure_onnx(arguments.onnx, size, arguments.repeats or REPEATS["cpu"])
        print(json.dumps(measured) if arguments.json else describe_onnx(measured))
        return
    settings = [
        Setting(device, dtype, check_shape(shape, dtype, device), arguments.channels_last)
        for device in devices
        for dtype in dict.fromkeys(arguments.dtype)
        for shape in arguments.shape or [SHAPE]
    ]
    if arguments.chart:
        check_writable(arguments.chart)
    if arguments.save:
        for device in devices:
            check_writable(results_path(machine(device)))
    os.environ.setdefault("KINETO_LOG_LEVEL", "7")  # no messages of the profiler; it reads this when it first starts
    reuse = keep_freed_memory()  # as train.py does
    results = []
    for setting in settings:
        measured = measure(setting, arguments.repeats or REPEATS[setting.device])
        results.append({"machine": machine(setting.device), "reuse_memory": reuse, **measured})
        if not arguments.json:
            print(describe(results[-1]), flush=True)
    if arguments.json:
        print(json.dumps({"settings": results}))
    if arguments.save:
        save(results)
    if arguments.chart:
        draw_chart(arguments.chart, results)


if __name__ == "__main__":
    run_command(main)
