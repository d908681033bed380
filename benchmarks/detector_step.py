"""Time and memory of one training step of Faster R-CNN R50: ours, and torchvision's own.

    python -m benchmarks.detector_step [--height 480] [--width 640] [--batch 2] [--rounds 3] [--steps 3]

Forward with losses, backward and SGD in float32, on CUDA if available. Both models have random weights, 80 classes, the
plain feature pyramid, a frozen stem and a frozen first stage, and get seven objects per image; everything else is their
default. Every measurement runs in a new process with the same allocator settings. The models take turns, so that a busy
moment of the machine affects both. Prints JSON.
"""

import argparse
import datetime
import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from benchmarks.segformer_step import positive, take_turns
from models.rcnn.model import FasterRCNNConfig
from runtime.memory import keep_freed_memory
from structures import Batch, DatasetInfo, Instances, Target
from workflow.environment import cpu_name

CLASSES = 80
OBJECTS = 7
THEIRS = "torchvision"
Losses = Callable[[], dict[str, Tensor]]


def random_objects(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Random boxes [N, 4] of many sizes, and labels [N]."""
    corner = torch.rand(OBJECTS, 2) * 0.7
    size = torch.logspace(-1.5, -0.2, OBJECTS)[:, None].expand(-1, 2)
    boxes = torch.cat([corner, (corner + size).clamp(max=1)], dim=1) * torch.tensor([width, height] * 2)
    return boxes, torch.randint(CLASSES, (OBJECTS,))


def build_ours(upsampler: str, images: Tensor) -> tuple[nn.Module, Losses]:
    """Build our model, and a function that computes its losses."""
    count, _, height, width = images.shape
    config = FasterRCNNConfig.model_validate({"backbone": "resnet50", "upsampler": upsampler, "neck": "fpn"})
    model = config.build(DatasetInfo("detection", "random", ("",) * CLASSES)).to(images.device)
    targets = [Target("", (height, width), instances=Instances(*random_objects(height, width))) for _ in range(count)]
    batch = Batch(images, [(height, width)] * count, targets).to(images.device)
    return model, lambda: model(batch)


def build_theirs(images: Tensor) -> tuple[nn.Module, Losses]:
    """Build the model of torchvision, and a function that computes its losses."""
    count, _, height, width = images.shape
    sizes: dict[str, Any] = {
        "min_size": min(height, width),
        "max_size": max(height, width),
    }  # the model resizes its input
    net = {"weights": None, "weights_backbone": None, "num_classes": CLASSES + 1, "trainable_backbone_layers": 3}
    model = fasterrcnn_resnet50_fpn(**net, **sizes).to(images.device)
    targets = []
    for _ in range(count):
        boxes, labels = random_objects(height, width)
        targets.append({"boxes": boxes.to(images.device), "labels": labels.to(images.device) + 1})
    return model, lambda: model(list(images), [dict(target) for target in targets])


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the seconds of each step after the first, and the peak memory of this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.height, arguments.width).to(device)
    model, compute_losses = build_theirs(images) if kind == THEIRS else build_ours(kind, images)
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, fused=True)
    times = []
    for _ in range(arguments.steps + 1):
        marks = [_now(device)]
        loss = torch.stack(list(compute_losses().values())).sum()
        marks.append(_now(device))
        optimizer.zero_grad()
        loss.backward()
        marks.append(_now(device))
        optimizer.step()
        marks.append(_now(device))
        times.append([after - before for before, after in itertools.pairwise(marks)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"times": times[1:], "peak_mb": peak / 2**20}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def summarize(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over all steps of all runs."""
    times = [step for run in runs for step in run["times"]]
    forward, backward, _ = (round(statistics.median(column), 4) for column in zip(*times, strict=True))
    step = round(statistics.median(sum(row) for row in times), 4)
    peak = round(statistics.median(run["peak_mb"] for run in runs))
    return {"forward_s": forward, "backward_s": backward, "step_s": step, "peak_mb": peak}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=positive, default=480)
    parser.add_argument("--width", type=positive, default=640)
    parser.add_argument("--batch", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=3, help="processes for each model")
    parser.add_argument("--steps", type=positive, default=3, help="measured steps per process")
    parser.add_argument("--upsamplers", default="nearest,dysample+", help="upsamplers of our model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    kinds = [*arguments.upsamplers.split(","), THEIRS]
    measurements = take_turns(["-m", "benchmarks.detector_step"], kinds, arguments.rounds)
    results = {kind: summarize(runs) for kind, runs in measurements.items()}
    first = next(iter(results))
    setting = {name: value for name, value in vars(arguments).items() if name != "measure"}
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else cpu_name()
    about = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    record = {
        "date": str(datetime.date.today()),
        **about,
        "torchvision": torchvision.__version__,
        "setting": setting,
        "results": results,
        "times_faster": round(results[THEIRS]["step_s"] / results[first]["step_s"], 3),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
