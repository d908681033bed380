"""Count the parameters and multiply-accumulates (MACs) of a model, with fake tensors that have only shapes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from models.base import DenseModel
from structures import Size
from upsamplers import Upsampler


@contextmanager
def shapes_only() -> Iterator[None]:
    """Context that builds models on the meta device: their tensors have shapes but no data, so need no memory."""
    with torch.device("meta"), _NoFilling():
        yield


class _NoFilling(TorchFunctionMode):
    """Skips random initialisers: on meta tensors they have no effect, but would take two thirds of the time."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_):
            return kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_):
            return args[0]
        return func(*args, **kwargs)


def complexity(model: DenseModel, size: Size) -> dict[str, Any]:
    """Count parameters and MACs for one image of `size` (height, width). See `--json` of tools.complexity.

    Returns "params", "params_trainable", "macs", "input" ([channels, height, width]) and "upsamplers": a dictionary of
    their "count", "params", "weights" and "macs". `weights` counts convolution and linear weights only, as the paper
    does.
    This needs no memory and computes nothing: a model built under `shapes_only` has no data, and for another one fake
    tensors take its place, which is slower. Raises ValueError if the image is too small for the model.
    """
    counter, channels = FlopCounterMode(display=False), model.backbone.in_channels
    upsampler_macs = upsampler_flops = 0

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal upsampler_macs, upsampler_flops
        assert isinstance(module, Upsampler)
        upsampler_macs += module.macs(*inputs[0].shape[-2:])
        upsampler_flops -= counter.get_total_flops()

    def leave(*_: object) -> None:
        nonlocal upsampler_flops
        upsampler_flops += counter.get_total_flops()

    upsamplers = [module for module in model.modules() if isinstance(module, Upsampler)]
    handles = [module.register_forward_pre_hook(enter) for module in upsamplers]
    handles += [module.register_forward_hook(leave) for module in upsamplers]
    was_training = model.training
    # The MATH backend computes attention as two matrix products, which the counter can count on every device.
    device = next(model.parameters()).device
    fake = nullcontext() if device.type == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), fake, counter:
        model.eval().outputs(torch.zeros(1, channels, *size, device=device))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "params_trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "macs": (counter.get_total_flops() - upsampler_flops) // 2 + upsampler_macs,
        "input": [channels, *size],
        "upsamplers": {
            "count": len(upsamplers),
            "params": sum(parameter.numel() for module in upsamplers for parameter in module.parameters()),
            "weights": sum(module.weight_count() for module in upsamplers),
            "macs": upsampler_macs,
        },
    }


def describe(counts: dict[str, Any]) -> str:
    """Format the counts as text."""
    upsamplers, (_, height, width) = counts["upsamplers"], counts["input"]
    return (
        f"parameters  {counts['params']:,} ({counts['params_trainable']:,} trainable)\n"
        f"MACs        {counts['macs'] / 1e9:.2f} G for one {width}x{height} image\n"
        f"upsamplers  {upsamplers['count']} with {upsamplers['params']:,} parameters "
        f"({upsamplers['weights']:,} weights), {upsamplers['macs'] / 1e9:.3f} G MACs"
    )
