"""Parameters and multiply-accumulates: `python -m tools.complexity --cfg FILE [KEY=VALUE ...] [--json]`.

MACs of convolutions, linear layers and attention products are counted. Those of upsamplers are counted by the rule that
reproduces the paper's Table 4 (see `Upsampler.macs`). The input is one image of the size that the model trains on.
What a detector computes for each region (its heads, and an upsampler in its mask head) is not included.
"""

import json
from argparse import Namespace
from pathlib import Path

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.complexity", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="the configuration of the model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: the training crop")
    return parse_with_overrides(parser)


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from experiment import load_experiment
from models.cost import complexity, describe, shapes_only
from structures import Size

MAX_PIXELS = 2**24  # counting is slow above: attention runs in chunks, whose number grows with the square of the pixels


def check_size(size: Size) -> None:
    """Raise UserError unless MACs for an image of (height, width) can be counted in seconds."""
    height, width = size
    if min(size) < 1:
        raise UserError(f"--size {height} {width}", "is not positive", "give height and width in pixels")
    if height * width > MAX_PIXELS:
        what = f"has {height * width:,} pixels; counting is for up to {MAX_PIXELS:,}"
        raise UserError(f"--size {height} {width}", what, "use a smaller one")


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if arguments.size:
        check_size(tuple(arguments.size))
    experiment = load_experiment(arguments.cfg, arguments.overrides)
    with shapes_only():
        model = experiment.build_model(pretrained=False)
    size = tuple(arguments.size) if arguments.size else experiment.padded_input(model)
    try:
        counts = complexity(model, size)
    except ValueError as error:
        where = f"--size {size[0]} {size[1]}" if arguments.size else arguments.cfg
        raise UserError(where, str(error), "use a larger size") from None
    print(json.dumps(counts) if arguments.json else describe(counts))


if __name__ == "__main__":
    run_command(main)
