"""Time of a training step on many GPUs, by formula: `python -m benchmarks.scaling_model [--images 2] [--json FILE]`.

See docs/scaling.md. Nothing is measured here: the numbers of the recipes and machines are inputs, with their sources.
`benchmarks.scaling` compares the formula with one and two processes of this machine.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.segformer_step import positive
from errors import ArgumentParser, run_command
from tools.markdown import markdown_table

GPUS = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Machine:
    """What a cluster can do. Bandwidths are in one direction, in bytes per second.

    flops: floating-point operations per second in a step. inside: bandwidth between the processes of a node. between:
    of all network cards of a node together; a ring crosses them once. latency: seconds of one message. per_node:
    processes of a node. cores: of CPU per process. files: bytes per second of the file system, for all processes
    together. overlap: share of the computing during which gradients travel. fixed: seconds of a step that do not depend
    on the number of images.
    """

    name: str
    flops: float
    inside: float
    between: float
    latency: float = 1e-5
    per_node: int = 8
    cores: float = 14
    files: float = 5e9
    overlap: float = 0.5
    fixed: float = 0.02


@dataclass(frozen=True)
class Recipe:
    """What one training step asks for. Images and gradients are those of one process.

    flops: of an image, forward and backward. gradient_bytes: exchanged. exchanges: of small tensors, one after the
    other. decoded: images per second that one core reads, decodes and augments. image_bytes: of a file.
    """

    name: str
    flops: float
    gradient_bytes: float
    exchanges: int
    decoded: float
    image_bytes: float


@dataclass(frozen=True)
class Step:
    """Seconds of the parts of one step. exposed: of the exchange of gradients, while nothing is computed."""

    compute: float
    exposed: float
    exchanges: float
    decode: float
    files: float

    @property
    def total(self) -> float:
        """The step: images are read ahead while it computes, so the slowest of the three counts."""
        return max(self.compute + self.exposed + self.exchanges, self.decode, self.files)

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        parts = [field.name for field in fields(self)]
        return max(parts, key=lambda name: getattr(self, name))


def ring_seconds(size: float, processes: int, bandwidth: float, latency: float) -> float:
    """A ring all-reduce of `size` bytes: in 2 (P - 1) rounds each process sends 1 / P of them.

    Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 2009.
    """
    rounds = 2 * (processes - 1)
    return rounds * (size / processes / bandwidth + latency)


def tree_seconds(processes: int, latency: float) -> float:
    """An all-reduce of a few numbers: up a binary tree, and down."""
    return 2 * math.ceil(math.log2(processes)) * latency


def step_of(recipe: Recipe, machine: Machine, processes: int, images: float) -> Step:
    """One step with `images` in each process. The ring goes at the speed of its slowest link."""
    bandwidth = machine.inside if processes <= machine.per_node else min(machine.inside, machine.between)
    compute = machine.fixed + images * recipe.flops / machine.flops
    travel = ring_seconds(recipe.gradient_bytes, processes, bandwidth, machine.latency)
    return Step(
        compute,
        max(0.0, travel - machine.overlap * compute),
        recipe.exchanges * tree_seconds(processes, machine.latency),
        images / (machine.cores * recipe.decoded),
        processes * images * recipe.image_bytes / machine.files,
    )


# A DGX H100, by its data sheet: NVLink with 450 GB/s per GPU and direction, 8 cards of 400 Gbit/s, 112 cores.
# flops: Faster R-CNN's step of 2 images took 71 ms (benchmarks/results/gpu_nvidia_h100_80gb_hbm3_2026-11-22.json).
# The second has the same GPUs, and one card of 25 Gbit/s a node. files, latency, overlap and fixed are assumptions.
MACHINES = (
    Machine("8 H100 and 8 x 400 Gbit/s a node", 3.6e13, 450e9, 8 * 50e9),
    Machine("8 H100 and 25 Gbit/s a node", 3.6e13, 450e9, 25e9 / 8, files=1e9),
)


def recipe(name: str, gmacs: float, parameters: float, exchanges: int, decoded: float, image_bytes: float) -> Recipe:
    """A recipe by MACs of an image in 1e9 (`tools.complexity`): backward takes twice the operations of forward."""
    return Recipe(name, 3 * 2 * gmacs * 1e9, 4 * parameters, exchanges, decoded, image_bytes)


# GMACs, parameters: tools.complexity. exchanges: counted in one step of the demo of the model, and 2 for each
# synchronised norm. decoded: benchmarks.input_pipeline, received from a worker; of MaskFormer's larger crops by their
# pixels. image_bytes: the archives of ADE20K (923 MB, 22,210 images) and of COCO's training images (19.3 GB, 118,287).
RECIPES = (
    recipe("seg_dysample", 16.16, 13.73e6, 4, 101, 4.2e4),
    recipe("maskformer_swinb_dysample", 187.6, 101.8e6, 2, 65, 4.2e4),
    recipe("det_dysample", 211.8, 46.9e6, 3, 121, 1.63e5),
)


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.scaling_model", description=__doc__)
    parser.add_argument("--images", type=positive, default=2, help="per GPU; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = []
    for machine in MACHINES:
        lines = []
        for each in RECIPES:
            steps = [step_of(each, machine, count, arguments.images) for count in GPUS]
            alone = step_of(each, machine, 1, arguments.images).total
            for count, step in zip(GPUS, steps, strict=True):
                found.append({"machine": machine.name, "recipe": each.name, "gpus": count, **asdict(step)})
                found[-1] |= {"step_s": step.total, "bound": step.bound, "efficiency": alone / step.total}
            lines.append([f"`{each.name}`", *(f"{alone / step.total:.2f} {step.bound}" for step in steps)])
        header = [machine.name, *(f"{count} GPUs" for count in GPUS)]
        print(markdown_table(header, lines), end="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
