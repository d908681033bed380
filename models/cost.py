"""Parameters and multiply-accumulates (MACs) of a model. Nothing is computed: tensors are shapes here."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.base import DenseModel
from structures import Size
from upsamplers import Upsampler


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
