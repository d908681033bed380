"""Time every upsampler: `python -m benchmarks.upsamplers [--device cuda] [--dtype bf16] [--repeats N]`. Prints JSON.

The shape is that of the paper's section 3.4: 256 x 120 x 120, the guide 256 x 240 x 240, one image. Medians over
`repeats` after a warm-up, the upsamplers interleaved so that a busy moment of the machine hits all of them. On CUDA
"dysample (plain)" is DySample without its Triton kernels.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch import Tensor

from errors import ArgumentParser, UserError, run_command
from runtime.memory import keep_freed_memory
from upsamplers import PAPER_NAMES, DySample, build_upsampler
from upsamplers.dysample import plain_sample

CHANNELS, HEIGHT, WIDTH = 256, 120, 120
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PlainDySample(DySample):
    """DySample that samples by PyTorch's grid_sample everywhere."""

    def sampler(self, x: Tensor, offset: Tensor, scope: Tensor | None) -> Callable[..., Tensor]:
        """Always `plain_sample`."""
        return plain_sample


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and when."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def milliseconds(function: Callable[[], object], device: str) -> float:
    """Wall time of one call, the device's queue drained."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def measure(device: str, dtype: torch.dtype, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of forward, and of forward and backward, for each upsampler."""
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, HEIGHT, WIDTH, device=device, dtype=dtype, requires_grad=True)
    guide = torch.randn(1, CHANNELS, 2 * HEIGHT, 2 * WIDTH, device=device, dtype=dtype, requires_grad=True)
    modules: dict[str, torch.nn.Module] = {name: build_upsampler(name, CHANNELS) for name in PAPER_NAMES}
    if device == "cuda":
        modules["dysample (plain)"] = PlainDySample(CHANNELS)
    modules = {name: module.to(device, dtype) for name, module in modules.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "forward_backward": []} for name in modules}

    def forward(module: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            output: Tensor = module(x, guide=guide)
        return output

    for repeat in range(repeats + 2):  # the first two warm up
        for name, module in modules.items():
            once = milliseconds(lambda module=module: forward(module), device)  # type: ignore[misc]
            both = milliseconds(lambda module=module: module(x, guide=guide).sum().backward(), device)  # type: ignore[misc]
            if repeat >= 2:
                times[name]["forward"].append(once)
                times[name]["forward_backward"].append(both)
    return {
        name: {kind: round(statistics.median(values), 3) for kind, values in of.items()} for name, of in times.items()
    }


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="benchmarks.upsamplers", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device", "PyTorch sees no CUDA device", "use cpu")
    keep_freed_memory()
    result = {
        "shape": [CHANNELS, HEIGHT, WIDTH],
        "dtype": arguments.dtype,
        **machine(arguments.device),
        "milliseconds": measure(arguments.device, DTYPES[arguments.dtype], arguments.repeats),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run_command(main)
