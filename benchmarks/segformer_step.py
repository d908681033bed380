"""Time and memory of one training step of SegFormer: ours, and the one in `transformers` if it is installed.

    python -m benchmarks.segformer_step [--size 512] [--batch 2] [--rounds 2] [--steps 2] [--json FILE]

Forward, loss, backward and AdamW in float32, on CUDA if available. Every measurement runs in a new process with the
same allocator settings. The models take turns, so that a busy moment of the machine affects both. Prints JSON; with
--json the comparisons, as text, and writes them.
"""

import argparse
import datetime
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
CLASSES = 150
PEER, GOALS = "transformers", {"bilinear": 1.8, "dysample": 1.5}
CHANNELS = {"mit_b0": ([32, 64, 160, 256], 256), "mit_b1": ([64, 128, 320, 512], 256)}


def build_ours(
    backbone: str, upsampler: str, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.nn.Module, Callable]:
    """Build our model, and a function that computes its loss."""
    sys.path.insert(0, str(ROOT))
    from models.segformer.model import SegFormerConfig
    from structures import Batch, DatasetInfo, Target

    size = (images.shape[2], images.shape[3])
    config = SegFormerConfig.model_validate({"backbone": backbone, "upsampler": upsampler})
    model = config.build(DatasetInfo("semantic", "random", ("",) * CLASSES))
    targets = [Target("", size, semantic=label.to(torch.int16)) for label in labels]
    batch = Batch(images, [size] * len(images), targets)
    return model, lambda: model(batch)["loss_ce"]


def build_theirs(backbone: str, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.nn.Module, Callable]:
    """Build the model of `transformers`, and a function that computes its loss."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    channels, head = CHANNELS[backbone]
    config = SegformerConfig(hidden_sizes=channels, decoder_hidden_size=head, num_labels=CLASSES)
    model = SegformerForSemanticSegmentation(config)
    return model, lambda: model(pixel_values=images, labels=labels).loss


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Measure the seconds of each step after the first, and the peak memory of this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size).to(device)
    labels = torch.randint(CLASSES, (arguments.batch, arguments.size, arguments.size)).to(device)
    if kind == PEER:
        model, compute_loss = build_theirs(arguments.backbone, images, labels)
    else:
        model, compute_loss = build_ours(arguments.backbone, kind, images, labels)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5, fused=True)
    seconds = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        loss = compute_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {"seconds": seconds[1:], "peak_mb": peak / 2**20}


def keep_freed_memory() -> None:
    """Use the allocator settings of our training loop, for both models."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from runtime.memory import keep_freed_memory as keep

    keep()
    sys.path.remove(str(ROOT))  # `transformers` looks for a package `datasets`, and must not find ours


@contextmanager
def without_our_datasets() -> Iterator[None]:
    """Context for importing `transformers`, which looks for a package `datasets`, and must not find ours."""
    before = sys.path[:]
    sys.path[:] = [place for place in before if Path(place or ".").resolve() != ROOT]
    try:
        yield
    finally:
        sys.path[:] = before


def take_turns(script: list[str], kinds: list[str], rounds: int, cwd: str | None = None) -> dict[str, list[dict]]:
    """Run `python SCRIPT [options of this command] --measure KIND` `rounds` times for each kind; return their JSON."""
    measurements: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            command = [sys.executable, *script, *sys.argv[1:], "--measure", kind]
            done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                sys.exit(f"error: {kind}: could not be measured; see the message above")
            measurements[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return measurements


def positive(text: str) -> int:
    """Parse a positive integer option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=positive, default=512)
    parser.add_argument("--batch", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=2, help="processes for each model")
    parser.add_argument("--steps", type=positive, default=2, help="measured steps per process")
    parser.add_argument("--backbone", choices=list(CHANNELS), default="mit_b1")
    parser.add_argument("--upsamplers", default="bilinear,dysample", help="upsamplers of our model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    sys.path.append(str(ROOT))  # not before: a measuring process must not find our `datasets`, see keep_freed_memory
    from benchmarks.pairs import publish, row_of
    from workflow.environment import cpu_name

    kinds = arguments.upsamplers.split(",")
    if importlib.util.find_spec(PEER):
        kinds.append(PEER)
    measurements = take_turns([str(Path(__file__).resolve())], kinds, arguments.rounds, cwd="/")
    setting = {name: value for name, value in vars(arguments).items() if name not in ("measure", "json")}
    if arguments.json:
        times = {kind: [statistics.median(run["seconds"]) for run in runs] for kind, runs in measurements.items()}
        theirs = times.pop(PEER, None)
        work = f"SegFormer, {arguments.backbone}: training step with"
        rows = [row_of(f"{work} {kind}", PEER, own, theirs, goal=GOALS.get(kind)) for kind, own in times.items()]
        publish(rows, arguments.json, **setting)
        return
    results = {
        kind: {
            "median_s": round(statistics.median(second for run in runs for second in run["seconds"]), 3),
            "best_s": round(min(second for run in runs for second in run["seconds"]), 3),
            "peak_mb": round(statistics.median(run["peak_mb"] for run in runs)),
        }
        for kind, runs in measurements.items()
    }
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({"date": str(datetime.date.today()), **machine, "setting": setting, "results": results}, indent=2))


if __name__ == "__main__":
    main()
