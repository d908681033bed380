"""How a run computes: in which precision, and whether runs repeat bit for bit on CUDA too.

Weights, gradients and losses are float32 in every precision. fp32: so is all else. tf32: the same, but on CUDA matrix
products and convolutions round their factors to 10 bits of mantissa (TensorFloat-32, on GPUs from Ampere on); on CPU
there is no difference. bf16, fp16: autocast to that type, fp16 with a loss scale.

PyTorch's own defaults lie between: until 1.11 products and convolutions were TF32, since then only convolutions are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from errors import UserError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The mixed-precision context of a forward pass; without effect for fp32 and tf32. It can be entered repeatedly."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision in ("bf16", "fp16"))


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Context in which matrix products and convolutions of float32 tensors on CUDA use TF32, or float32 proper."""
    # PyTorch 2.9 has new names for these. Its own code still reads the old ones, and refuses to once both are in use.
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = tf32
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Context in which PyTorch uses only deterministic algorithms, if `wanted`. They may be slower.

    Raises UserError, naming the operation, where PyTorch has no such algorithm. On CPU this is not needed: with the
    same number of threads our runs repeat bit for bit anyway.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(", but you set")[0].split(". ")[0]
        what = f"is not possible here ({reason})"
        raise UserError("system.deterministic", what, "choose another component, or set it to false") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
