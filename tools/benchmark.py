"""Latency and memory of every upsampler, beside the least that memory traffic takes: `python -m tools.benchmark`.

By default at the shape of the DySample paper's section 3.4 and Figs. 1 and 8: x 256 x 120 x 120, the guide 256 x 240 x
240, one image, scale 2. Forward in evaluation mode without gradients; with backward, gradients of x, of a guide that is
read, and of the parameters. Latencies are medians with quartiles over `repeats` rounds after a warm-up; in each round
every upsampler has a turn, so that a busy moment of the machine hits all of them. Peak memory is the most that
PyTorch's allocator hands out at once beyond inputs and parameters, on CPU as its profiler records it.

The floor is the time to read x and write the output once (with backward: and their gradients) at the bandwidth of a
large copy, measured in the same rounds. Maps that fit into a cache can be faster. On CUDA "dysample (plain)" is
DySample without its Triton kernels.
"""

import json
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from errors import ArgumentParser, UserError, run_command
from eval import check_writable
from runtime.memory import keep_freed_memory
from tools.benchmark_report import FORMATS, RESULTS, describe, draw_chart, results_path, save
from upsamplers import PAPER_NAMES, DySample, Upsampler, build_upsampler
from upsamplers.dysample import plain_sample

SHAPE = (1, 256, 120, 120)
SCALE = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COPY_BYTES = 1 << 28  # larger than any cache
WARM_UP = 2  # rounds
REPEATS = {"cpu": 5, "cuda": 50}


class PlainDySample(DySample):
    """DySample that samples by PyTorch's grid_sample everywhere."""

    def sampler(self, x: Tensor, offset: Tensor, scope: Tensor | None) -> Callable[..., Tensor]:
        """Always `plain_sample`."""
        return plain_sample


@dataclass(frozen=True)
class Setting:
    """What all upsamplers are measured at. shape: of x, [B, C, H, W]."""

    device: str
    dtype: str
    shape: tuple[int, int, int, int]

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Of the output and of the guide, [B, C, sH, sW]."""
        B, C, H, W = self.shape
        return B, C, SCALE * H, SCALE * W

    @property
    def traffic(self) -> int:
        """Bytes of x and the output."""
        return (math.prod(self.shape) + math.prod(self.output_shape)) * DTYPES[self.dtype].itemsize

    def random(self, shape: Sequence[int]) -> Tensor:
        """A tensor that wants a gradient."""
        return torch.randn(shape, device=self.device, dtype=DTYPES[self.dtype], requires_grad=True)


@dataclass
class Turn:
    """One upsampler and its inputs."""

    upsampler: Upsampler
    x: Tensor
    guide: Tensor
    gradient: Tensor

    @torch.inference_mode()
    def forward(self) -> object:
        """As in prediction."""
        return self.upsampler.eval()(self.x, guide=self.guide)

    def forward_backward(self) -> object:
        """As in training; the gradients are handed out, not kept."""
        inputs = [self.x, *([self.guide] if self.upsampler.uses_guide else []), *self.upsampler.parameters()]
        output = self.upsampler.train()(self.x, guide=self.guide)
        return output, torch.autograd.grad(output, inputs, self.gradient)


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and when."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def cpu_name() -> str:
    """The processor's own name where Linux tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found.group(1).strip() if found else platform.machine()


def build_turns(setting: Setting) -> dict[str, Turn]:
    """Every upsampler of the paper, with inputs that they share. Raises UserError if the channels do not suit one."""
    torch.manual_seed(0)
    channels = setting.shape[1]
    try:
        upsamplers = {name: build_upsampler(name, channels, scale=SCALE) for name in PAPER_NAMES}
    except ValueError as error:
        raise UserError(f"--shape {' '.join(map(str, setting.shape))}", str(error), "use other channels") from None
    if setting.device == "cuda":
        upsamplers["dysample (plain)"] = PlainDySample(channels, SCALE)
    x, guide = setting.random(setting.shape), setting.random(setting.output_shape)
    gradient = setting.random(setting.output_shape).detach()
    dtype = DTYPES[setting.dtype]
    return {
        name: Turn(upsampler.to(setting.device, dtype), x, guide, gradient) for name, upsampler in upsamplers.items()
    }


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """All numbers of one setting. Raises UserError if it does not fit into the memory of a CUDA device."""
    try:
        return _measured(setting, build_turns(setting), repeats)
    except torch.OutOfMemoryError:
        shape = " ".join(map(str, setting.shape))
        raise UserError(f"--shape {shape}", "does not fit into the device's memory", "use a smaller one") from None


def _measured(setting: Setting, turns: dict[str, Turn], repeats: int) -> dict[str, Any]:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=setting.device)
    target = torch.zeros_like(source)
    calls: dict[tuple[str, str], Callable[[], object]] = {("copy", ""): lambda: target.copy_(source)}
    for name, turn in turns.items():
        calls |= {(name, "forward"): turn.forward, (name, "forward_backward"): turn.forward_backward}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(WARM_UP + repeats):
        for key, call in calls.items():
            times[key].append(milliseconds(call, setting.device))
    latency = {key: quartiles(values[WARM_UP:]) for key, values in times.items()}
    bandwidth = 2 * COPY_BYTES / latency["copy", ""]["median"]  # bytes a millisecond; a copy reads and writes
    floor = {"forward": setting.traffic / bandwidth, "forward_backward": 2 * setting.traffic / bandwidth}
    return {
        "device": setting.device,
        "dtype": setting.dtype,
        "shape": list(setting.shape),
        "scale": SCALE,
        "repeats": repeats,
        "copy_gb_per_s": rounded(bandwidth / 1e6),
        "floor_ms": {kind: rounded(value) for kind, value in floor.items()},
        "upsamplers": {
            name: costs(turn.upsampler, setting)
            | {
                kind: {
                    "ms": latency[name, kind],
                    "times_floor": rounded(latency[name, kind]["median"] / floor[kind]),
                    "peak_mb": rounded(peak_bytes(calls[name, kind], setting.device) / 1e6),
                }
                for kind in ("forward", "forward_backward")
            }
            for name, turn in turns.items()
        },
    }


def costs(upsampler: Upsampler, setting: Setting) -> dict[str, int]:
    """What does not depend on the machine. weights, macs: counted as in the paper, which prints MACs as FLOPs."""
    B, _, H, W = setting.shape
    return {
        "params": sum(parameter.numel() for parameter in upsampler.parameters()),
        "weights": upsampler.weight_count(),
        "macs": B * upsampler.macs(H, W),
    }


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Time of one call, the device's queue empty before and after; on CUDA by events."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The most that PyTorch's allocator hands out at once during a call, beyond what it had before."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda change: change[0])
    return int(np.cumsum([0, *(size for _, size in changes)]).max())


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": rounded(middle), "q1": rounded(low), "q3": rounded(high)}


def rounded(value: float) -> float:
    """To four significant digits."""
    return float(f"{value:.4g}")


def check_shape(shape: list[int], dtype: str, device: str) -> tuple[int, int, int, int]:
    """The shape. Raises UserError if a number is too small, or if x, guide and gradient alone exceed the memory."""
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
    """The command."""
    parser = ArgumentParser(prog="tools.benchmark", description=__doc__)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", nargs="+", choices=["cpu", "cuda"], default=[best], help=f"default: {best}")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["float32"], help="default: float32")
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=("B", "C", "H", "W"), help="repeatable")
    parser.add_argument("--repeats", type=int, help="rounds that count; default: 5 on CPU, 50 on CUDA")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help=f"into {RESULTS}/upsamplers_MACHINE_DATE.json")
    parser.add_argument("--chart", type=Path, metavar="FILE", help=" or ".join(FORMATS))
    arguments = parser.parse_args()
    if "cuda" in arguments.device and not torch.cuda.is_available():
        raise UserError("--device cuda", "PyTorch sees no CUDA device", "use cpu")
    if arguments.repeats is not None and arguments.repeats < 1:
        raise UserError(f"--repeats {arguments.repeats}", "is no number of rounds", "use 1 or more")
    if arguments.chart and arguments.chart.suffix.lower() not in FORMATS:
        raise UserError(f"--chart {arguments.chart}", "is no name of a chart", f"end it with {' or '.join(FORMATS)}")
    settings = [
        Setting(device, dtype, check_shape(shape, dtype, device))
        for device in dict.fromkeys(arguments.device)
        for dtype in dict.fromkeys(arguments.dtype)
        for shape in arguments.shape or [SHAPE]
    ]
    if arguments.chart:
        check_writable(arguments.chart)
    if arguments.save:
        for device in dict.fromkeys(arguments.device):
            check_writable(results_path(machine(device)))
    os.environ.setdefault("KINETO_LOG_LEVEL", "7")  # the profiler says nothing; read when it first starts
    reuse = keep_freed_memory()  # as train.py does
    results = []
    for setting in settings:
        found = measure(setting, arguments.repeats or REPEATS[setting.device])
        results.append({"machine": machine(setting.device), "reuse_memory": reuse, **found})
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
