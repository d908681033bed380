"""Measure upsamplers: latency, peak memory, and the minimum time that the memory traffic takes on this machine."""

import json
import math
import platform
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

from errors import UserError
from upsamplers import NAMES, DySample, Upsampler, build_upsampler
from upsamplers.sampling import Sampler, plain_sample
from workflow.environment import cpu_name

SCALE = 2
COPY_BYTES = 1 << 28  # larger than any cache
WARM_UP = 2  # rounds
REPLAYS = 50  # of a CUDA graph


class PlainDySample(DySample):
    """DySample that always samples with PyTorch's grid_sample."""

    def sampler(self, x: Tensor, offset: Tensor, scope: Tensor | None) -> Sampler:
        """Always `plain_sample`."""
        return plain_sample


@dataclass(frozen=True)
class Setting:
    """The device, dtype, input shape [B, C, H, W] and layout of maps with which all upsamplers are measured."""

    device: str
    dtype: str
    shape: tuple[int, int, int, int]
    channels_last: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return getattr(torch, self.dtype)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """The shape of the output and of the guide, [B, C, sH, sW]."""
        B, C, H, W = self.shape
        return B, C, SCALE * H, SCALE * W

    @property
    def traffic(self) -> int:
        """Bytes of x and of the output together."""
        return (math.prod(self.shape) + math.prod(self.output_shape)) * self.torch_dtype.itemsize

    def random(self, shape: Sequence[int]) -> Tensor:
        """A random tensor that requires a gradient."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        drawn = torch.randn(shape, device=self.device, dtype=self.torch_dtype)
        return drawn.to(memory_format=layout).requires_grad_()


@dataclass
class Turn:
    """One upsampler and its inputs."""

    upsampler: Upsampler
    x: Tensor
    guide: Tensor
    gradient: Tensor

    @torch.inference_mode()
    def forward(self) -> object:
        """Upsample as in prediction, without gradients."""
        return self.upsampler.eval()(self.x, guide=self.guide)

    def forward_backward(self) -> object:
        """Upsample as in training and compute gradients. They are returned, not accumulated."""
        inputs = [self.x, *([self.guide] if self.upsampler.uses_guide else []), *self.upsampler.parameters()]
        output = self.upsampler.train()(self.x, guide=self.guide)
        return output, torch.autograd.grad(output, inputs, self.gradient)


def machine(device: str) -> dict[str, Any]:
    """The machine, the libraries and the date of a measurement."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def build_turns(setting: Setting) -> dict[str, Turn]:
    """Build every upsampler of the paper, with shared inputs. Raises UserError if one refuses the channels."""
    torch.manual_seed(0)
    channels = setting.shape[1]
    try:
        upsamplers = {name: build_upsampler(name, channels, scale=SCALE) for name in NAMES}
    except ValueError as error:
        raise UserError(f"--shape {' '.join(map(str, setting.shape))}", str(error), "use other channels") from None
    if setting.device == "cuda":
        upsamplers["dysample (plain)"] = PlainDySample(channels, SCALE)
    x, guide = setting.random(setting.shape), setting.random(setting.output_shape)
    gradient = setting.random(setting.output_shape).detach()
    dtype = setting.torch_dtype
    return {
        name: Turn(upsampler.to(setting.device, dtype), x, guide, gradient) for name, upsampler in upsamplers.items()
    }


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """Measure all upsamplers in one setting. Raises UserError if it does not fit into the memory of a CUDA device."""
    try:
        return _measure(setting, build_turns(setting), repeats)
    except torch.OutOfMemoryError:
        shape = " ".join(map(str, setting.shape))
        raise UserError(f"--shape {shape}", "does not fit into the device's memory", "use a smaller one") from None


def _measure(setting: Setting, turns: dict[str, Turn], repeats: int) -> dict[str, Any]:
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
    on_device = {key: device_milliseconds(call) for key, call in calls.items()} if setting.device == "cuda" else {}
    bandwidth = 2 * COPY_BYTES / latency["copy", ""]["median"]  # bytes per millisecond; a copy reads and writes
    floor = {"forward": setting.traffic / bandwidth, "forward_backward": 2 * setting.traffic / bandwidth}
    return {
        "device": setting.device,
        "dtype": setting.dtype,
        "shape": list(setting.shape),
        "channels_last": setting.channels_last,
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
                | ({"device_ms": on_device[name, kind]} if on_device else {})
                for kind in ("forward", "forward_backward")
            }
            for name, turn in turns.items()
        },
    }


def costs(upsampler: Upsampler, setting: Setting) -> dict[str, int]:
    """Costs that do not depend on the machine. weights, macs: counted as in the paper, which calls MACs FLOPs."""
    B, _, H, W = setting.shape
    return {
        "params": sum(parameter.numel() for parameter in upsampler.parameters()),
        "weights": upsampler.weight_count(),
        "macs": B * upsampler.macs(H, W),
    }


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Time of one call, with the device's queue empty before and after. On CUDA it is measured by events."""
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


def device_milliseconds(call: Callable[[], object]) -> float | None:
    """Time of one call on a CUDA device alone, without what Python and the launch of its kernels take.

    The kernels are recorded once as a CUDA graph, which is replayed REPLAYS times in a row. So a map that fits into the
    device's cache may be there already. None if the call cannot be recorded, since it waits for the device.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    graph.replay()

    def replay() -> None:
        for _ in range(REPLAYS):
            graph.replay()

    return rounded(milliseconds(replay, "cuda") / REPLAYS)


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The largest amount that PyTorch's allocator holds at once during a call, beyond what it held before."""
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
    """Round to four significant digits."""
    return float(f"{value:.4g}")
