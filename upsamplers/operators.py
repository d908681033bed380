"""Point sampling as operators of PyTorch, `denseup::NAME`, with kernels for CPUs (points_cpu.py) and GPUs (Triton).

torch.compile and CUDA graphs keep them as they are. Where there is no kernel, PyTorch's own operators do their work.

    sum_points        x [B, C, H, W], positions [B, g, n, h, w, 2], weights [B, g, n, h, w] or None -> [B, C, h, w]
    score_points      query [B, C, h, w], key [B, C, H, W], positions [B, g, n, h, w, 2] -> [B, g, n, h, w]
    sample_offsets    x [B, C, H, W], raw offsets and scope, the fields of `PointSampling` -> [B, C, sH, sW]

Positions and weights are float32; see `upsamplers.points` for their units, `upsamplers.sampling` for raw offsets.
border: whether what is read outside the map is its border, or zeros. Results have the memory layout of their map.
NAME_backward takes the gradient of the result first. It returns the gradients of all tensors, empty for None.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from upsamplers import points_cpu
from upsamplers.layout import dense, layout

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HOW = "str style, int scale, int groups, str start, float factor"
_INPUTS = {
    "sum_points": "Tensor x, Tensor positions, Tensor? weights, bool border",
    "score_points": "Tensor query, Tensor key, Tensor positions, bool border",
    "sample_offsets": f"Tensor x, Tensor offset, Tensor? scope, {_HOW}",
}


def covers(x: Tensor, *others: Tensor | None) -> bool:
    """Whether there are kernels to read map x at positions, and with weights, made of the others, one at least.

    There are on a CPU where C++ can be compiled, and with Triton on GPUs that have bfloat16; in float32 and below.
    """
    tensors = [tensor for tensor in (x, *others) if tensor is not None]
    if not all(tensor.dtype in DTYPES and tensor.numel() > 0 and tensor.device == x.device for tensor in tensors):
        return False
    if tensors[1].numel() >= 2**31:  # kernels number points in int32
        return False
    # torch.compile would trace how kernels are found. It need not know: the operators work without them, too.
    return x.device.type in ("cpu", "cuda") and (torch.compiler.is_compiling() or _kernels(x.device) is not None)


def apply(name: str, *inputs: Any) -> Tensor:
    """Call an operator of the list above so that it can be differentiated."""
    run = _Differentiable.apply if torch.is_grad_enabled() else _call
    result: Tensor = run(name, *inputs)
    return result


def _call(name: str, *inputs: Any) -> Any:
    return _operators[name](*inputs)


class _Differentiable(torch.autograd.Function):
    """Keeps only its arguments. Second derivatives are those of PyTorch's own operators."""

    @staticmethod
    def forward(name: str, *inputs: Any) -> Tensor:
        result: Tensor = _call(name, *inputs)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.how = inputs[0], inputs[4:]
        ctx.save_for_backward(*inputs[1:4])

    @staticmethod
    def backward(ctx: Any, y: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = _plain_gradients(ctx.name, y, tensors, ctx.how)
        else:
            found = _call(f"{ctx.name}_backward", y, *tensors, *ctx.how)
        present = [None if tensor is None else one for one, tensor in zip(found, tensors, strict=True)]
        return None, *present, *([None] * len(ctx.how))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], name: str, *inputs: Any) -> tuple[Tensor, int]:
        # All tensors begin with the images of a batch, of which there are more now.
        tensors = [
            None if one is None else one.expand(info.batch_size, *one.shape) if dim is None else one.movedim(dim, 0)
            for one, dim in zip(inputs[:3], in_dims[1:4], strict=True)
        ]
        result = apply(name, *(None if one is None else one.flatten(0, 1) for one in tensors), *inputs[3:])
        return result.unflatten(0, (info.batch_size, -1)), 0


# --- kernels, or what does their work ---------------------------------------------------------------------------------


def _kernels(device: torch.device) -> ModuleType | None:
    """The module whose functions are the operators on a device."""
    if device.type == "cuda":
        return _triton_kernels(device)
    return points_cpu if device.type == "cpu" and points_cpu.is_available() else None


@functools.cache
def _triton_kernels(device: torch.device) -> ModuleType | None:
    """Import Triton when it is first needed, so never without CUDA."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (8, 0):  # or it has no bfloat16
        return None
    try:
        from upsamplers import points_triton
    except ImportError:
        return None
    return points_triton


def _run(name: str, *inputs: Any) -> Tensor:
    kernel = getattr(_kernels(inputs[0].device), name, None)
    if kernel is None:
        return _like(name, *inputs).copy_(_plain(name, *inputs))
    result: Tensor = kernel(*(dense(one) if isinstance(one, Tensor) else one for one in inputs))
    return result


def _run_backward(name: str, y: Tensor, *inputs: Any) -> list[Tensor]:
    kernels = _kernels(y.device)
    kernel: Callable[..., Any] | None = getattr(kernels, f"{name}_backward", None)
    if name == "score_points" and kernels is not None:
        kernel = functools.partial(_score_backward, kernels)
    if kernel is not None:
        found = kernel(*(dense(one) if isinstance(one, Tensor) else one for one in (y, *inputs)))
        return [y.new_empty(0) if one is None else one for one in found]
    with torch.enable_grad():
        leaves = [None if one is None else one.detach().requires_grad_() for one in inputs[:3]]
        found = _plain_gradients(name, y, leaves, inputs[3:])
    return [to if one is None else to.copy_(one) for to, one in zip(_like_backward(y, *inputs), found, strict=True)]


def _score_backward(
    kernels: ModuleType, y: Tensor, query: Tensor, key: Tensor, positions: Tensor, border: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """With scores as weights, sums and scores change places: the kernels of sums give the gradients of scores."""
    grad_key, grad_positions, _ = kernels.sum_points_backward(query, key, positions, y, border)
    grad_query = torch.empty_like(query).copy_(kernels.sum_points(key, positions, y, border))
    return grad_query, grad_key, grad_positions


def _like(name: str, *inputs: Any) -> Tensor:
    """What an operator returns, without values."""
    if name == "score_points":
        positions: Tensor = inputs[2]
        return positions.new_empty(positions.shape[:-1])
    x, second = inputs[:2]
    scale = inputs[4] if name == "sample_offsets" else 1
    size = second.shape[3:5] if name == "sum_points" else (scale * x.shape[2], scale * x.shape[3])
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout(x))


def _like_backward(y: Tensor, *inputs: Any) -> list[Tensor]:
    """What its backward operator returns, without values."""
    return [y.new_empty(0) if one is None else torch.empty_like(dense(one)) for one in inputs[:3]]


def _plain(name: str, *inputs: Any) -> Tensor:
    from upsamplers import points, sampling

    first, second, third, *how = inputs
    if name == "sample_offsets":
        return sampling.plain_sample(first, second, third, sampling.PointSampling(*how))
    compute = points.plain_sample_points if name == "sum_points" else points.plain_score_points
    return compute(first, second, third, "border" if how[0] else "zeros", in_chunks=False)


def _plain_gradients(name: str, y: Tensor, tensors: Sequence[Tensor | None], how: Sequence[Any]) -> list[Tensor | None]:
    """The gradients of the tensors that require one. They can be differentiated again."""
    # Positions are computed from x. With views, the gradient of x does not include the path through them.
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
    leaves = [view for view in views if view is not None and view.requires_grad]
    found = iter(torch.autograd.grad(_plain(name, *views, *how), leaves, y, create_graph=True))
    return [next(found) if view is not None and view.requires_grad else None for view in views]


_library = torch.library.Library("denseup", "FRAGMENT")
_operators: dict[str, Any] = {}
for _name, _inputs in _INPUTS.items():
    for _signature, _function, _fake in (
        (f"{_name}({_inputs}) -> Tensor", functools.partial(_run, _name), functools.partial(_like, _name)),
        (
            f"{_name}_backward(Tensor y, {_inputs}) -> (Tensor, Tensor, Tensor)",
            lambda *inputs, _name=_name: tuple(_run_backward(_name, *inputs)),
            lambda *inputs: tuple(_like_backward(*inputs)),
        ),
    ):
        _defined = _library.define(_signature, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(_defined, _function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"denseup::{_defined}", _fake, lib=_library)
        _operators[_defined] = getattr(torch.ops.denseup, _defined).default
