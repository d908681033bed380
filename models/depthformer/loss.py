"""The loss of DepthFormer. Eigen et al., NeurIPS 2014, in the form of Lee et al., "From Big to Small", 2019."""

import torch
from torch import Tensor

from runtime.distributed import sum_over_processes

_DEPTH_OFFSET = 0.001  # metres, keeps logarithms finite
_SMALLEST_SQUARE = 1e-12  # a root's slope has no end at 0


def scale_invariant_log_loss(depth: Tensor, labels: Tensor) -> Tensor:
    """How unevenly predicted depths [B, 1, H, W] differ from labels [B, H, W] (metres, 0: not measured) -> scalar.

    The root of var(g) + 0.15 mean(g)², g the difference of logarithms, over all measured pixels of the batch: a common
    factor costs less than errors that vary (Eigen et al., NeurIPS 2014, in the form of Lee et al., "From Big to Small",
    without its factor of 10). In float32 whatever autocast says; 0 if nothing was measured. The batch is that of all
    processes together, so the loss does not depend on their number; the original takes each process's own.
    """
    measured = labels > 0
    count = sum_over_processes(measured.sum().float())
    g = (depth.squeeze(1).float() + _DEPTH_OFFSET).log() - (labels.float() + _DEPTH_OFFSET).log()
    g = torch.where(measured, g, 0)
    mean = sum_over_processes(g.sum()) / count.clamp(min=1)
    variance = sum_over_processes(torch.where(measured, g - mean, 0).square().sum()) / (count - 1).clamp(min=1)
    return (variance + 0.15 * mean.square()).clamp(min=_SMALLEST_SQUARE).sqrt()
