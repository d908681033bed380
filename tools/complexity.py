"""Parameters and multiply-accumulates: `python -m tools.complexity --cfg FILE [KEY=VALUE ...] [--json]`.

MACs are counted once each, over convolutions, linear layers and attention products; upsamplers count by the rule that
reproduces the paper's Table 4 (see `Upsampler.macs`). The input is one image of the size that the model trains on.
What a detector does once for each region (its heads, and an upsampler in its mask head) is not among its MACs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from errors import ArgumentParser, UserError, run_command
from experiment import Experiment, load_experiment
from models.base import DenseModel
from structures import Size
from upsamplers import Upsampler

LARGEST = 2**24  # pixels; attention over large maps runs in pieces, whose number grows with their square


def complexity(model: DenseModel, size: Size) -> dict[str, Any]:
    """Counts for one image of `size` (height, width); `weights` are conv and linear weights only, the paper's way.

    Nothing is computed: tensors are shapes here, and take no memory. Raises ValueError for images too small for the
    model.
    """
    counter = FlopCounterMode(display=False)
    macs = inside = 0

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal macs, inside
        assert isinstance(module, Upsampler)
        macs += module.macs(*inputs[0].shape[-2:])
        inside -= counter.get_total_flops()

    def leave(*_: object) -> None:
        nonlocal inside
        inside += counter.get_total_flops()

    upsamplers = [module for module in model.modules() if isinstance(module, Upsampler)]
    handles = [module.register_forward_pre_hook(enter) for module in upsamplers]
    handles += [module.register_forward_hook(leave) for module in upsamplers]
    was_training = model.training
    # Attention written out as two matrix products, which the counter knows on every device.
    shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), shapes_only, counter:
        model.eval().outputs(torch.zeros(1, 3, *size))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "params_trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "macs": (counter.get_total_flops() - inside) // 2 + macs,
        "input": [3, *size],
        "upsamplers": {
            "count": len(upsamplers),
            "params": sum(parameter.numel() for module in upsamplers for parameter in module.parameters()),
            "weights": sum(module.weight_count() for module in upsamplers),
            "macs": macs,
        },
    }


def describe(counts: dict[str, Any]) -> str:
    """The counts in words."""
    parts, (_, height, width) = counts["upsamplers"], counts["input"]
    return (
        f"parameters  {counts['params']:,} ({counts['params_trainable']:,} trainable)\n"
        f"MACs        {counts['macs'] / 1e9:.2f} G for one {width}x{height} image\n"
        f"upsamplers  {parts['count']} with {parts['params']:,} parameters "
        f"({parts['weights']:,} weights), {parts['macs'] / 1e9:.3f} G MACs"
    )


def padded_input(experiment: Experiment, model: DenseModel) -> Size:
    """The size of a training image, rounded up to what the model asks for."""
    height, width = experiment.input_size
    divisor = model.size_divisor
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def check_size(size: Size) -> None:
    """Raise UserError unless (height, width) are those of an image that can be counted in seconds."""
    height, width = size
    if min(size) < 1:
        raise UserError(f"--size {height} {width}", "is not positive", "give height and width in pixels")
    if height * width > LARGEST:
        what = f"has {height * width:,} pixels; counting is for up to {LARGEST:,}"
        raise UserError(f"--size {height} {width}", what, "use a smaller one")


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.complexity", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: the training crop")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if arguments.size:
        check_size(tuple(arguments.size))
    experiment = load_experiment(arguments.cfg, arguments.overrides)
    model = experiment.build_model()
    size = tuple(arguments.size) if arguments.size else padded_input(experiment, model)
    try:
        counts = complexity(model, size)
    except ValueError as error:
        where = f"--size {size[0]} {size[1]}" if arguments.size else arguments.cfg
        raise UserError(where, str(error), "use a larger size") from None
    print(json.dumps(counts) if arguments.json else describe(counts))


if __name__ == "__main__":
    run_command(main)
