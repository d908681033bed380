"""DySample on a GPU beside its goals: `python -m benchmarks.gpu.sampler [--json FILE]`.

One image, 256 channels, 120 x 120 -> 240 x 240, in both layouts, float32 and bfloat16. For the forward pass, and with
backward: the time of a call from an empty queue, of a call among others that wait in the queue, and on the device alone
(its kernels as a CUDA graph). With backward by each way to sum the gradient of features, "window" and "lists", and by
PyTorch's grid_sample, whose sums have no fixed order. Where "lists" is faster in most settings, WINDOW of
upsamplers/points_triton.py should be False. Without a GPU this says what it needs.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from errors import UserError, run_command
from tools.benchmark.measure import (
    PlainDySample,
    Setting,
    Turn,
    device_milliseconds,
    machine,
    milliseconds,
    rounded,
)
from upsamplers import DySample

SHAPE = (1, 256, 120, 120)
GOALS = {"float32": 0.035, "bfloat16": 0.020}  # ms on an H100's device, forward, channels_last
CALL_GOAL, BACKWARD_GOAL = 0.3, 1.2  # ms of a forward call on an H100; times the fastest backward
QUEUED, ROUNDS = 50, 20  # calls in the queue; measurements, of which the median counts


def measure(call: Callable[[], object]) -> dict[str, float | None]:
    """Milliseconds of a call, of one of many in the queue, and on the device."""

    def many() -> None:
        for _ in range(QUEUED):
            call()

    many()
    alone = statistics.median(milliseconds(call, "cuda") for _ in range(ROUNDS))
    queued = statistics.median(milliseconds(many, "cuda") for _ in range(5)) / QUEUED
    return {"call_ms": rounded(alone), "queued_ms": rounded(queued), "device_ms": device_milliseconds(call)}


def measure_setting(dtype: str, channels_last: bool) -> dict[str, Any]:
    """All ways in one dtype and layout."""
    from upsamplers import points_triton  # Triton is there on a GPU alone

    setting = Setting("cuda", dtype, SHAPE, channels_last)
    torch.manual_seed(0)
    ours, plain = DySample(SHAPE[1]), PlainDySample(SHAPE[1])
    plain.load_state_dict(ours.state_dict())
    x, guide, gradient = (setting.random(shape) for shape in (SHAPE, setting.output_shape, setting.output_shape))
    turns = [Turn(module.to("cuda", setting.torch_dtype), x, guide, gradient.detach()) for module in (ours, plain)]
    found: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last, "forward": measure(turns[0].forward)}
    before = points_triton.WINDOW
    for way, window in (("window", True), ("lists", False)):
        points_triton.WINDOW = window
        found[f"with_backward_{way}"] = measure(turns[0].forward_backward)
    points_triton.WINDOW = before
    found["with_backward_grid_sample"] = measure(turns[1].forward_backward)
    return found


def verdicts(settings: list[dict[str, Any]]) -> dict[str, bool | None]:
    """For each goal whether it is met, None if it was not measured; and whether the window is the faster way."""
    result: dict[str, bool | None] = {}
    for one in settings:
        name = f"{one['dtype']}{', channels_last' if one['channels_last'] else ''}"
        result[f"{name}: call at most {CALL_GOAL} ms"] = one["forward"]["call_ms"] <= CALL_GOAL
        times = {way: one[f"with_backward_{way}"]["device_ms"] for way in ("window", "lists", "grid_sample")}
        known = [time for time in times.values() if time]
        ours = [times[way] for way in ("window", "lists") if times[way]]
        label = f"{name}: with backward at most {BACKWARD_GOAL} times the fastest"
        result[label] = min(ours) <= BACKWARD_GOAL * min(known) if ours else None
        result[f"{name}: window is faster than lists"] = times["window"] < times["lists"] if len(ours) == 2 else None
        if one["channels_last"]:
            goal, time = GOALS[one["dtype"]], one["forward"]["device_ms"]
            result[f"{name}: forward at most {goal} ms on the device"] = time <= goal if time else None
    return result


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise UserError("benchmarks.gpu.sampler", "PyTorch sees no CUDA device", "run it on a machine with one")
    settings = [measure_setting(dtype, last) for dtype in GOALS for last in (False, True)]
    record = {"machine": machine("cuda"), "shape": SHAPE, "settings": settings, "verdicts": verdicts(settings)}
    text = json.dumps(record, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    run_command(main)
