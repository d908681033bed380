"""Speed up CPU runs: let glibc keep the memory of freed tensors instead of returning it to the system."""

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # constants of malloc.h
# Bytes. Freed tensors up to this size keep their memory. In evaluation by windows only small ones do: the gaps between
# larger ones, of many sizes and many times, would add up to gigabytes.
TRAINING, EVALUATION, WINDOWS = 1 << 30, 1 << 25, 1 << 20


def keep_freed_memory(up_to: int = TRAINING) -> bool:
    """Raise glibc's thresholds so that tensors of up to `up_to` bytes reuse memory. Return whether it was possible.

    By default every large tensor is mapped anew and its pages are faulted in one by one, which takes about half the
    time of a SegFormer-B1 training step on CPU. Larger tensors than `up_to` still return their memory at once. This
    avoids fragmentation, which matters for images of different sizes but not for training steps of always the same
    sizes. Linux with glibc only; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc_trim(0)  # what was freed until now, such as the file of the weights, is returned
    mallopt = libc.mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, up_to)) and bool(mallopt(M_TRIM_THRESHOLD, TRAINING))
