"""Read 16-bit depth maps, or say in one line why a file is unusable or why its distances cannot be right."""

from pathlib import Path

import numpy as np

from datasets.files.images import read_bytes, read_header, reporting_damage
from errors import UserError

UNMEASURED = 0
SATURATED = 2**16 - 1  # some sensors store it where they cannot measure
FEW = 0.01  # with a smaller share of measured pixels, a map is not judged


def read_depth_values(path: Path) -> np.ndarray:
    """The values of a single-channel 16-bit PNG, as stored: [H, W] uint16.

    Raises UserError if the file is missing, incomplete, not a PNG, too large, or has colours or 8 bits per pixel.
    """
    data = read_bytes(path)
    header = read_header(path, data)
    if header.format != "PNG":
        raise UserError(path, f"is a {header.format} file", "store depth as a 16-bit PNG, which keeps it exactly")
    bits, has_colours = data[24], data[25] != 0  # of the PNG header; a palette counts as colours
    if has_colours:
        what = f"has pixels of kind {header.mode} where one distance per pixel is expected"
        raise UserError(path, what, "store depth in a single-channel 16-bit PNG, not as a coloured picture")
    if bits != 16:
        what = f"has {bits} bits per pixel, at most {2**bits} different distances"
        raise UserError(path, what, "take the 16-bit original: an 8-bit copy has lost the depth")
    with reporting_damage(path):
        return np.asarray(header).astype(np.uint16)


def read_depth(path: Path, scale: float, max_depth: float) -> np.ndarray:
    """Distances [H, W] float32 in metres, 0 where nothing was measured. scale: file units per metre.

    max_depth: approximately the largest distance in the data, in metres. Raises UserError like `read_depth_values`, and
    if the values cannot be right: 8-bit depth in 16 bits, swapped bytes, or another scale.
    """
    values = read_depth_values(path)
    if problem := problem_with_values(values, scale, max_depth):
        raise UserError(path, *problem)
    return values.astype(np.float32) / np.float32(scale)


def problem_with_values(values: np.ndarray, scale: float, max_depth: float) -> tuple[str, str] | None:
    """What is wrong with the uint16 depths as a whole, and what to do about it; None if they may be right.

    Any of these is wrong: more than 32 different values that are all multiples of 256 or of 257 (8 bits stretched to
    16); over a quarter of the values beyond max_depth, but less than 1 % of them after swapping the bytes; over half
    beyond 1.5 max_depth; all below 0.02 max_depth; all at most 255 and below 0.1 max_depth.
    """
    counts = np.bincount(values.ravel(), minlength=2**16)
    counts[[UNMEASURED, SATURATED]] = 0
    measured = int(counts.sum())
    if measured <= FEW * values.size:
        return None

    def share_beyond(histogram: np.ndarray, metres: float) -> float:
        return float(histogram[int(min(metres * scale, SATURATED)) + 1 :].sum() / measured)

    present = np.flatnonzero(counts)
    if len(present) > 32 and not (present % 257).any():
        return _stretched(257)
    if len(present) > 32 and not (present % 256).any():
        return _stretched(256)
    swapped = counts.reshape(256, 256).T.ravel()
    if share_beyond(counts, max_depth) > 0.25 and share_beyond(swapped, max_depth) < 0.01:
        what = f"seems to have its bytes swapped: in the other byte order its values stay below {max_depth:g} m"
        return what, "write PNGs from native 16-bit integers (NYU's raw PGM files have them swapped)"
    units = f"data.depth_scale (now {scale:g} units per metre)"
    if share_beyond(counts, 1.5 * max_depth) > 0.5:
        what = f"is mostly farther than {1.5 * max_depth:g} m, where data.max_depth is {max_depth:g}"
        return what, f"set {units} or data.max_depth"
    largest = int(present[-1])
    if largest < 256 and largest / scale < max_depth / 10:
        what = f"has no value above {largest}, which is {largest / scale:.3g} m, as in a copy of 8-bit depth"
        return what, f"take the 16-bit original, or set {units}"
    if largest / scale < max_depth / 50:
        return f"has no depth beyond {largest / scale:.3g} m (value {largest})", f"set {units} or data.max_depth"
    return None


def _stretched(factor: int) -> tuple[str, str]:
    what = f"holds 8-bit depth stretched to 16 bits: all values are multiples of {factor}"
    return what, "take the 16-bit original: an 8-bit copy has lost the depth"
