"""Time and memory of one training step of MaskFormer: ours, and the one in `transformers` if it is installed.

    python -m benchmarks.maskformer_step [--cfg FILE] [--size 512] [--rounds 2] [--steps 1] [--json FILE] [KEY=VALUE ..]

On CPU, one random image with ten classes in blocks: forward with the losses of all six layers, the matching in it,
backward, and AdamW with a clipped norm. Theirs is Swin-B with the plain (nearest) pixel decoder. Every measurement runs
in a new process with the same allocator settings; the models take turns. Prints JSON; with --json the comparisons, as
text, and writes them.
"""

import argparse
import datetime
import importlib.util
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.segformer_step import positive, take_turns, without_our_datasets
from runtime.memory import keep_freed_memory

CLASSES = 150
OURS, PEER = "ours", "transformers"
Loss = Callable[[], Tensor]


def blocks(size: int) -> Tensor:
    """Labels [size, size] of ten classes in blocks."""
    coarse = torch.randint(10, (size // 64, size // 64), dtype=torch.int16)
    return coarse.repeat_interleave(64, dim=0).repeat_interleave(64, dim=1)


def build_ours(
    arguments: argparse.Namespace, image: Tensor, labels: Tensor, matching: list[float]
) -> tuple[nn.Module, Loss]:
    """Build our model, and a function that computes its loss and adds the seconds of the matching to `matching`."""
    from experiment import load_experiment
    from models.maskformer import losses as masks
    from structures import Batch, Target

    model = load_experiment(arguments.cfg, arguments.overrides).build_model(pretrained=False)
    size = (labels.shape[0], labels.shape[1])
    batch, match = Batch(image, [size], [Target("random", size, semantic=labels)]), masks.match

    def timed(*values: Any) -> Any:
        start = time.perf_counter()
        result = match(*values)
        matching[-1] += time.perf_counter() - start
        return result

    masks.match = timed  # type: ignore[assignment]
    return model, lambda: torch.stack(list(model(batch).values())).sum()


def build_theirs(image: Tensor, labels: Tensor) -> tuple[nn.Module, Loss]:
    """Build the model of `transformers` with the same sizes, and a function that computes its loss."""
    with without_our_datasets():
        from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    stages = [f"stage{index}" for index in range(1, 5)]
    swin = SwinConfig(
        embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=12, out_features=stages
    )
    decoder = DetrConfig(d_model=256, decoder_layers=6, decoder_ffn_dim=2048, num_queries=100)
    config = MaskFormerConfig(backbone_config=swin, decoder_config=decoder, use_auxiliary_loss=True, num_labels=CLASSES)
    model = MaskFormerForInstanceSegmentation(config)
    present = labels.unique().long()
    masks = [(labels == present[:, None, None]).float()]
    return model, lambda: model(pixel_values=image, mask_labels=masks, class_labels=[present]).loss


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the seconds of the parts of each step after the first, and the peak memory of this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    image, labels = torch.randn(1, 3, arguments.size, arguments.size), blocks(arguments.size)
    matching: list[float] = []
    if kind == PEER:
        model, compute_loss = build_theirs(image, labels)
    else:
        model, compute_loss = build_ours(arguments, image, labels, matching)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=6e-5, fused=True)
    parts: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}
    for _ in range(arguments.steps + 1):
        matching.append(0.0)
        marks = [time.perf_counter()]
        loss = compute_loss()
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for name, first, last in zip(parts, marks, marks[1:], strict=False):
            parts[name].append(last - first)
    return {
        "seconds": [sum(step) for step in zip(*parts.values(), strict=True)][1:],
        "parts": {name: round(statistics.median(seconds[1:]), 3) for name, seconds in parts.items()},
        "matching_s": round(statistics.median(matching[1:]), 4),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", type=Path, default=Path("configs/maskformer_swinb_nearest.yaml"))
    parser.add_argument("--size", type=positive, default=512)
    parser.add_argument("--rounds", type=positive, default=2, help="processes for each model")
    parser.add_argument("--steps", type=positive, default=1, help="measured steps per process")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    from benchmarks.pairs import publish, row_of  # not before: they import what `without_our_datasets` keeps away
    from workflow.environment import cpu_name

    kinds = [OURS, *([PEER] if importlib.util.find_spec(PEER) else [])]
    measurements = take_turns(["-m", "benchmarks.maskformer_step"], kinds, arguments.rounds)
    if arguments.json:
        times = {kind: [statistics.median(run["seconds"]) for run in runs] for kind, runs in measurements.items()}
        work = f"MaskFormer, {arguments.cfg.stem}: training step"
        publish([row_of(work, PEER, times[OURS], times.get(PEER))], arguments.json, size=arguments.size)
        return
    about = {"date": str(datetime.date.today()), "device": cpu_name(), "threads": torch.get_num_threads()}
    setting = {"config": str(arguments.cfg), "overrides": arguments.overrides, "size": arguments.size, "images": 1}
    print(json.dumps(about | {"setting": setting, "results": measurements}, indent=2))


if __name__ == "__main__":
    main()
