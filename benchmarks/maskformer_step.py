"""Time and memory of one training step of MaskFormer: `python -m benchmarks.maskformer_step`. Prints JSON.

Measures, on CPU: the forward pass, the matching in it (of all six layers), the backward pass and the optimiser, as
medians over rounds, and the peak memory of the process. By default: Swin-B with DySample-S+, one random image of
512 x 512 pixels with ten classes in blocks.
"""

import argparse
import datetime
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.segformer_step import positive
from experiment import load_experiment
from models.maskformer import losses as masks
from runtime.memory import keep_freed_memory
from structures import Batch, Target
from workflow.environment import cpu_name


def measure(cfg: Path, overrides: list[str], size: int, rounds: int) -> dict[str, Any]:
    """Measure the seconds of the parts of a step, and the peak memory in GiB."""
    experiment = load_experiment(cfg, overrides)
    torch.manual_seed(0)
    model = experiment.build_model(pretrained=False).train()
    optimizer = experiment.optimizer.build(model, experiment.batch_size)
    blocks = torch.randint(10, (size // 64, size // 64), dtype=torch.int16)
    semantic = blocks.repeat_interleave(64, dim=0).repeat_interleave(64, dim=1)
    batch = Batch(torch.randn(1, 3, size, size), [(size, size)], [Target("random", (size, size), semantic=semantic)])
    matching: list[float] = []
    match = masks.match

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = match(*arguments)
        matching[-1] += time.perf_counter() - start
        return result

    masks.match = timed  # type: ignore[assignment]
    parts: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}
    for _ in range(rounds + 1):  # the first one warms up
        matching.append(0.0)
        marks = [time.perf_counter()]
        loss = torch.stack(list(model(batch).values())).sum()
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for name, first, last in zip(parts, marks, marks[1:], strict=False):
            parts[name].append(last - first)
    masks.match = match
    medians = {name: statistics.median(seconds[1:]) for name, seconds in parts.items()}
    matched = statistics.median(matching[1:])
    return {
        "config": str(cfg),
        "size": [size, size],
        "images": 1,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": {name: round(seconds, 3) for name, seconds in medians.items()},
        "step_seconds": round(sum(medians.values()), 3),
        "matching_seconds": round(matched, 4),
        "matching_share": round(matched / sum(medians.values()), 4),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", type=Path, default=Path("configs/maskformer_swinb_dysample.yaml"))
    parser.add_argument("--size", type=positive, default=512)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    keep_freed_memory()
    about = {"date": str(datetime.date.today()), "device": cpu_name(), "threads": torch.get_num_threads()}
    print(json.dumps(about | measure(arguments.cfg, arguments.overrides, arguments.size, arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
