"""DySample on the CPU against the published module's algorithm: `python -m benchmarks.sampler_cpu [--json FILE]`.

One image, 256 channels, 120 x 120 -> 240 x 240; forward without gradients, and forward with all gradients. In turns in
one process. Both sides have the same weights and give the same results, or this raises ValueError. And CARAFE, which
sums windows with predicted kernels, against bilinear upsampling, which computes less.
"""

import argparse
import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pairs import Row, compare, publish
from benchmarks.segformer_step import positive
from runtime.memory import keep_freed_memory
from upsamplers import Carafe, DySample

CHANNELS, SIDE = 256, 120
GOALS = {"contiguous": (2.0, 2.5), "channels_last": (2.5, 4.0), "bf16 autocast": (2.0, 2.5)}


class Published(nn.Module):
    """The published module's forward pass, style lp, with the weights of ours; `reshape` where it has a `view`.

    Without that it would refuse channels_last maps.
    """

    def __init__(self, ours: DySample) -> None:
        super().__init__()
        self.offset, self.groups, self.scale = ours.offset, ours.groups, ours.scale
        self.init_pos = ours.init_pos

    def forward(self, x: Tensor) -> Tensor:
        """Upsample x [B, C, H, W] to [B, C, sH, sW]."""
        B, _, H, W = x.shape
        s = self.scale
        offset = (self.offset(x) * 0.25 + self.init_pos).reshape(B, 2, -1, H, W)
        rows, columns = torch.arange(H) + 0.5, torch.arange(W) + 0.5
        centres = torch.stack(torch.meshgrid([columns, rows], indexing="ij")).transpose(1, 2)
        size = torch.tensor([W, H], dtype=x.dtype).view(1, 2, 1, 1, 1)
        grid = 2 * (centres[None, :, None].to(x.dtype) + offset) / size - 1
        grid = F.pixel_shuffle(grid.reshape(B, -1, H, W), s).view(B, 2, -1, s * H, s * W)
        grid = grid.permute(0, 2, 3, 4, 1).contiguous().flatten(0, 1)
        maps = x.reshape(B * self.groups, -1, H, W)
        read = F.grid_sample(maps, grid, mode="bilinear", align_corners=False, padding_mode="border")
        return read.view(B, -1, s * H, s * W)


def forward(module: nn.Module, x: Tensor, autocast: bool) -> Tensor:
    """The result, without gradients."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output: Tensor = module(x)
    return output


def with_gradients(module: nn.Module, x: Tensor, along: Tensor, autocast: bool) -> list[Tensor]:
    """The result, and the gradients of x and of the parameters for the gradient `along` of the result."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = module(x)
    return [output.detach(), *torch.autograd.grad(output, [x, *module.parameters()], along)]


def measure(rounds: int) -> list[Row]:
    """Compare both in every layout and precision. Raises ValueError if the results differ."""
    torch.manual_seed(0)
    ours = DySample(CHANNELS)
    nn.init.normal_(ours.offset.weight, std=0.02)  # as trained: offsets of about 0.08 pixels
    modules = ours, Published(ours)
    gradient = torch.randn(1, CHANNELS, 2 * SIDE, 2 * SIDE)
    rows = []
    for setting, goals in GOALS.items():
        autocast = setting == "bf16 autocast"
        x = torch.randn(1, CHANNELS, SIDE, SIDE, dtype=torch.bfloat16 if autocast else torch.float32)
        if setting == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        x.requires_grad_()
        # In the dtype and layout of each result, as the next layer gives it.
        along = [torch.empty_like(forward(module, x, autocast)).copy_(gradient) for module in modules]
        pairs = zip(modules, along, strict=True)
        work = [functools.partial(with_gradients, module, x, grad, autocast) for module, grad in pairs]
        for found, expected in zip(work[0](), work[1](), strict=True):
            error = (found.float() - expected.float()).norm() / expected.float().norm()
            if error > (0.02 if autocast else 1e-4):
                raise ValueError(f"{setting}: the results differ by {error:.2g} of their size")
        reads = [functools.partial(forward, module, x, autocast) for module in modules]
        name, peer = f"DySample, {setting}", "the published module"
        rows.append(compare(f"{name}, forward", peer, *reads, goal=goals[0], rounds=rounds))
        rows.append(compare(f"{name}, with backward", peer, *work, goal=goals[1], rounds=rounds))
    for layout in ("contiguous", "channels_last"):
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        x = torch.randn(1, CHANNELS, SIDE, SIDE).to(memory_format=memory_format).requires_grad_()
        pair = [
            functools.partial(with_gradients, module, x, gradient.to(memory_format=memory_format), False)
            for module in (Carafe(CHANNELS), nn.Upsample(scale_factor=2, mode="bilinear"))
        ]
        rows.append(compare(f"CARAFE, {layout}, with backward", "bilinear", *pair, rounds=rounds))
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as train.py does
    publish(measure(arguments.rounds), arguments.json, channels=CHANNELS, side=SIDE)


if __name__ == "__main__":
    main()
