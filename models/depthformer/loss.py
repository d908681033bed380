"""The loss of DepthFormer. Eigen et al., NeurIPS 2014, in the form of Lee et al., "From Big to Small", 2019."""

import torch
from torch import Tensor

from runtime.distributed import sum_over_processes

_DEPTH_OFFSET = 0.001  # metres, keeps logarithms finite
_SMALLEST_SQUARE = 1e-12  # lower limit under the square root, whose gradient is infinite at 0


def scale_invariant_log_loss(depth: Tensor, labels: Tensor) -> Tensor:
    """The scale-invariant log loss of depth [B, 1, H, W] and labels [B, H, W] (metres; 0: not measured) -> scalar.

    It is sqrt(var(g) + 0.15 mean(g)²), where g is the difference of the logarithms at all measured pixels of the batch.
    So a common scale error costs less than errors that vary over the image. (Eigen et al., NeurIPS 2014, in the form of
    Lee et al., "From Big to Small", without its factor of 10.) Computed in float32 even under autocast. If nothing was
    measured it is 1e-6, with zero gradient. The statistics are over the batches of all processes together, so the loss
    does not depend on the number of processes; in the original each process uses its own batch.
    """
    measured = labels > 0
    count = sum_over_processes(measured.sum().float())
    g = (depth.squeeze(1).float() + _DEPTH_OFFSET).log() - (labels.float() + _DEPTH_OFFSET).log()
    g = torch.where(measured, g, 0)
    mean = sum_over_processes(g.sum()) / count.clamp(min=1)
    variance = sum_over_processes(torch.where(measured, g - mean, 0).square().sum()) / (count - 1).clamp(min=1)
    return (variance + 0.15 * mean.square()).clamp(min=_SMALLEST_SQUARE).sqrt()
