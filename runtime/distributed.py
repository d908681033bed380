"""The processes of one run, as torchrun starts them, what they exchange, and batch normalisation over all of them."""

import os
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from errors import UserError
from runtime.shutdown import rank_and_count, shared_store

# TIMEOUT: in a training step, a process that does not answer for so long counts as dead.
# NO_TIMEOUT: an evaluation has no timeout, since one process may work long on a metric or write a large file.
TIMEOUT, NO_TIMEOUT = timedelta(minutes=30), timedelta(days=365)


@dataclass(frozen=True)
class Processes:
    """One process of `count`. device: of its model. no_timeout: the process group of `wait`, which has no timeout."""

    rank: int
    count: int
    device: torch.device
    no_timeout: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in at least one process. All processes must call it."""
        if self.count == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a CPU tensor over all processes. All processes must call it. May change `values`."""
        if self.count > 1:
            dist.all_reduce(values)
        return values / self.count

    def collect(self, value: Any) -> list[Any]:
        """The `value` of every process, ordered by rank. All processes must call it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def seed_step(self, seed: int, step: int) -> None:
        """Seed PyTorch's generators for one step of this process. So checkpoints need no random state for dropout."""
        number = int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(number)  # torch.manual_seed would seek devices of every kind
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the main one, which are those that are saved. All processes must call it.

        Running statistics of batch normalisation differ between processes if `sync_batch_norm` is off.
        """
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Wait until all processes have called this, without a timeout: a metric or a large file can take long."""
        if self.count > 1:
            barrier = dist.barrier(self.no_timeout, async_op=True)
            while not barrier.is_completed():
                time.sleep(0.02)  # Python handles no stop signal during `barrier.wait()`
            barrier.wait()


def start_processes(device: str, backend: str = "auto") -> Processes:
    """Join the process group of torchrun, or be a single process.

    device: "auto" (CUDA if available), "cpu" or "cuda". backend: "auto" (CPU tensors are exchanged by gloo, CUDA
    tensors by NCCL, which takes one process per GPU) or "gloo" (all by gloo; processes may share a GPU).
    `exit_together` destroys the process group at the end.
    Raises UserError if CUDA is requested but missing, or if there are more processes than GPUs for NCCL.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("system.device", "cuda is requested, but PyTorch sees no CUDA device", "use auto or cpu")
    rank, count = rank_and_count()
    local_rank, local_count = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own, gpus = torch.device("cpu"), torch.cuda.device_count()
    if device != "cpu" and torch.cuda.is_available():
        if local_count > gpus and backend == "auto":
            advice = "start one per GPU, or add system.backend=gloo to let them share GPUs"
            raise UserError("torchrun", f"{local_count} processes for {gpus} GPUs", advice)
        own = torch.device("cuda", local_rank % gpus)
        torch.cuda.set_device(own)
    if count == 1:
        return Processes(rank, count, own)
    exchange = "cpu:gloo,cuda:nccl" if own.type == "cuda" and backend == "auto" else "gloo"
    dist.init_process_group(exchange, timeout=TIMEOUT, store=shared_store(), rank=rank, world_size=count)
    no_timeout = dist.new_group(backend="gloo", timeout=NO_TIMEOUT)
    assert isinstance(no_timeout, dist.ProcessGroup)
    return Processes(rank, count, own, no_timeout)


def parallelize(model: nn.Module, processes: Processes) -> nn.Module:
    """Wrap the model in DistributedDataParallel, which averages gradients over processes, if there are several."""
    if processes.count == 1:
        return model
    # PyTorch warns about strides of axes of length 1, which cost nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # Buffers need no broadcast: running statistics of other processes are never used (see `share_buffers`).
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor is new in PyTorch 2.14
    devices = [processes.device.index] if processes.device.type == "cuda" else None
    return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def local_gradients(parallel: nn.Module) -> AbstractContextManager[None]:
    """Context without gradient averaging over processes, for all accumulation rounds except the last one."""
    return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes.

    Gradients flow through it; their mean over processes equals the gradient of a single process.
    """
    if not dist.is_initialized():
        return x
    total: Tensor = _Sum.apply(x)
    return total


def mean_count(count: float | Tensor, like: Tensor) -> Tensor:
    """The divisor of a loss that sums over `count` items: the mean count over processes, on the device of `like`.

    Gradients are averaged over processes, so this gives the same gradient as one process would. A total of 0 counts
    as 1. count: a number, or a tensor of several counts, which are exchanged together. No device is waited for.
    """
    if isinstance(count, Tensor):
        total = count.detach().float().clone()
    else:
        total = torch.full((), float(count), device=like.device)
    if not dist.is_initialized():
        return total.clamp(min=1)
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is summed too, since every process uses the sum."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


# --- batch normalisation over the images of all processes ------------------------------------------------------------


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
