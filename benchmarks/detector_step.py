"""Time and memory of one training step of Faster R-CNN R50: ours, and torchvision's own.

    python -m benchmarks.detector_step [--height 480] [--width 640] [--batch 2] [--rounds 2] [--steps 2] [--json FILE]

Forward with losses, backward and SGD in float32, on CUDA if available. Both models do the same work: random weights,
80 classes, torchvision's settings, the plain feature pyramid, a frozen stem and first stage, norms that learn nothing,
1000 proposals and seven objects per image. The numbers of trained weights and of norms must agree. Every measurement
runs in a new process with the same allocator settings. The models take turns, so that a busy moment of the machine
affects both. Prints JSON; with --json the comparisons, as text, and writes them.
"""

import argparse
import datetime
import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.pairs import publish, row_of
from benchmarks.segformer_step import positive, take_turns
from experiment import load_experiment
from models.backbones.resnet import FixedBatchNorm2d
from runtime.memory import keep_freed_memory
from structures import Batch, DatasetInfo, Instances, Target
from workflow.environment import cpu_name

CLASSES = 80
OBJECTS = 7
PROPOSALS = 1000  # per image, of which the losses use 512
THEIRS = "torchvision"
GOALS = {"nearest": 1.2}
Losses = Callable[[], dict[str, Tensor]]


def random_objects(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Random boxes [N, 4] of many sizes, and labels [N]."""
    corner = torch.rand(OBJECTS, 2) * 0.7
    size = torch.logspace(-1.5, -0.2, OBJECTS)[:, None].expand(-1, 2)
    boxes = torch.cat([corner, (corner + size).clamp(max=1)], dim=1) * torch.tensor([width, height] * 2)
    return boxes, torch.randint(CLASSES, (OBJECTS,))


def build_ours(upsampler: str, images: Tensor) -> tuple[nn.Module, Losses]:
    """Build our model with torchvision's settings, and a function that computes its losses."""
    count, _, height, width = images.shape
    options = [f"model.upsampler={upsampler}", "model.backbone.weights=null"]
    config = load_experiment(Path("configs/det_torchvision.yaml"), options).model
    model = config.build(DatasetInfo("detection", "random", ("",) * CLASSES), pretrained=False)
    for module in model.modules():
        if isinstance(module, FixedBatchNorm2d):  # torchvision's do not learn either
            module.requires_grad_(False)
    targets = [Target("", (height, width), instances=Instances(*random_objects(height, width))) for _ in range(count)]
    batch = Batch(images, [(height, width)] * count, targets).to(images.device)
    return model.to(images.device), lambda: model(batch)


def build_theirs(images: Tensor) -> tuple[nn.Module, Losses]:
    """Build the model of torchvision, and a function that computes its losses.

    Without pretrained weights `fasterrcnn_resnet50_fpn` would train every layer, with live batch normalisation, so the
    parts are put together here as it does with them. Images have their size and are normalised, as ours.
    """
    count, _, height, width = images.shape
    backbone = _resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), trainable_layers=3)
    ready: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    model = FasterRCNN(backbone, CLASSES + 1, rpn_post_nms_top_n_train=PROPOSALS, **ready).to(images.device)
    targets = []
    for _ in range(count):
        boxes, labels = random_objects(height, width)
        targets.append({"boxes": boxes.to(images.device), "labels": labels.to(images.device) + 1})
    return model, lambda: model(list(images), [dict(target) for target in targets])


def work_of(model: nn.Module) -> dict[str, int]:
    """What must be equal in both models: trained numbers and norms. torchvision's background has a box, too."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    background = 4 * (1024 + 1) if isinstance(model, FasterRCNN) else 0
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d | FixedBatchNorm2d)]
    live = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return {"trained": trained - background, "fixed_norms": len(norms), "live_norms": len(live)}


def temper(model: nn.Module) -> None:
    """Shrink what the blocks of the ResNet add, since nothing normalises their random features."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.2)


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the seconds of each step after the first, and the peak memory of this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.height, arguments.width).to(device)
    model, compute_losses = build_theirs(images) if kind == THEIRS else build_ours(kind, images)
    temper(model)
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
    return {"times": times[1:], "peak_mb": peak / 2**20, "work": work_of(model)}


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
    parser.add_argument("--rounds", type=positive, default=2, help="processes for each model")
    parser.add_argument("--steps", type=positive, default=2, help="measured steps per process")
    parser.add_argument("--upsamplers", default="nearest,dysample+", help="upsamplers of our model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    kinds = [*arguments.upsamplers.split(","), THEIRS]
    measurements = take_turns(["-m", "benchmarks.detector_step"], kinds, arguments.rounds)
    first_kind = arguments.upsamplers.split(",")[0]
    ours, theirs = (measurements[kind][0]["work"] for kind in (first_kind, THEIRS))
    if first_kind == "nearest" and ours != theirs:
        raise ValueError(f"the models do not do the same work: {ours}, {theirs}")
    setting = {name: value for name, value in vars(arguments).items() if name not in ("measure", "json")}
    if arguments.json:
        times = {kind: [summarize([run])["step_s"] for run in runs] for kind, runs in measurements.items()}
        work, theirs = "Faster R-CNN, ResNet-50: training step with", times.pop(THEIRS)
        rows = [row_of(f"{work} {kind}", THEIRS, own, theirs, goal=GOALS.get(kind)) for kind, own in times.items()]
        publish(rows, arguments.json, **setting)
        return
    results = {kind: summarize(runs) for kind, runs in measurements.items()}
    first = next(iter(results))
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
