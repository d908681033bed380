"""Batch normalisation over the images of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runtime.distributed import Processes


def synchronize_batch_norm(model: nn.Module, processes: Processes) -> nn.Module:
    """Make batch normalisation use statistics over all processes. Parameters and state-dict keys stay the same."""
    if processes.count == 1:
        return model
    if processes.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GlooBatchNorm2d  # it has the same attributes and another forward
        else:
            setattr(model, name, synchronize_batch_norm(child, processes))
    return model


class GlooBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes, for CPU tensors: nn.SyncBatchNorm does not support them.

    It exchanges tensors once in the forward and once in the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        if not self.training:
            return super().forward(x)
        mean, variance, count = _statistics(x.detach())
        if self.track_running_stats:
            self._update_running(mean, variance * count / (count - 1))
        weight = self.weight if self.affine else torch.ones_like(mean)
        bias = self.bias if self.affine else torch.zeros_like(mean)
        y: Tensor = _Normalize.apply(x, weight, bias, mean, variance, count, self.eps)
        return y

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C] and variance [C] of x [B, C, H, W] over all processes, and how many values each has; in float32.

    Each process gives its own mean, its sum of squared deviations from that, and its count. They are put together as in
    Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979), which,
    unlike the mean of squares, loses no digits.
    """
    channels, own_count = x.shape[1], x.numel() // x.shape[1]
    own_variance, own_mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    own = torch.cat([own_mean, own_variance * own_count, own_mean.new_tensor([own_count])])
    everyone = own.new_empty(dist.get_world_size(), len(own))
    dist.all_gather(list(everyone), own)
    means, squares, counts = everyone.split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (means * counts).sum(0) / count
    variance = (squares + counts * (means - mean).square()).sum(0) / count
    return mean, variance, count


class _Normalize(torch.autograd.Function):
    """x [B, C, H, W] normalised with the statistics of `_statistics`, through which gradients flow, too.

    Where all processes use a statistic, the gradient of it is the sum over them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # Those of fixed statistics; what is missing from x's depends on the sums over all processes of the others.
        operator = torch.ops.aten.native_batch_norm_backward
        of_x, of_weight, of_bias = operator(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        scale = (variance + ctx.eps).rsqrt()
        slope, offset = sums * weight * scale / count
        centred = (x - mean[:, None, None]) * (slope * scale)[:, None, None]
        of_x = of_x - (centred + offset[:, None, None]).to(of_x.dtype)
        return of_x, of_weight, of_bias, None, None, None, None
