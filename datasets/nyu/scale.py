"""Judge over many depth maps whether their scale may be right. One odd map proves nothing: it may be a near wall."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.nyu.depth_maps import SATURATED
from errors import UserError

UNMEASURED = 0
FEW = 0.01  # with a smaller share of measured pixels, a map is not judged
NEARLY_ALL = 0.9  # of the judged maps

STRETCHED = "8-bit depth, stretched"
SWAPPED = "swapped bytes"
TOO_FAR = "too far"
TOO_NEAR = "too near"
OF_8_BITS = "8-bit depth"


@dataclass
class DepthCount:
    """What the depth maps of a sample hold.

    maps: their number. measured, none, near, far: pixels that count, without a measurement, nearer than min_depth,
    beyond max_depth. low, high: the smallest and the largest value. judged: maps with enough measurements to judge.
    odd: the maps that look wrong, by kind of problem.
    """

    scale: float
    min_depth: float
    max_depth: float
    maps: int = 0
    measured: int = 0
    none: int = 0
    near: int = 0
    far: int = 0
    low: int = SATURATED
    high: int = 0
    judged: int = 0
    odd: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, path: Path, values: np.ndarray) -> None:
        """Count a map, [H, W] uint16."""
        self.maps += 1
        counts = np.bincount(values.ravel(), minlength=2**16)
        metres = np.arange(2**16).astype(np.float32) / np.float32(self.scale)  # as they are read
        near, far = metres < self.min_depth, metres > self.max_depth
        near[UNMEASURED] = far[UNMEASURED] = False
        self.none += int(counts[UNMEASURED])
        self.near += int(counts[near].sum())
        self.far += int(counts[far].sum())
        self.measured += int(counts[1:].sum() - counts[near | far].sum())
        if counts[1:].any():
            present = np.flatnonzero(counts[1:]) + 1
            self.low, self.high = min(self.low, int(present[0])), max(self.high, int(present[-1]))
        counts[[UNMEASURED, SATURATED]] = 0
        if counts.sum() > FEW * values.size:
            self.judged += 1
            if problem := problem_with(counts, self.scale, self.max_depth):
                self.odd.setdefault(problem, []).append(path)

    def check_measured(self) -> None:
        """Raise UserError if no pixel counts."""
        if self.measured:
            return
        what = "no depth map has a measurement: all values are 0"
        if self.high:
            metres = f"{self.low / self.scale:.3g} to {self.high / self.scale:.3g} m"
            what = (
                f"no depth map has a depth from {self.min_depth:g} to {self.max_depth:g} m (data.min_depth, max_depth)"
            )
            what += f": their values are {self.low} to {self.high}, which is {metres}"
        do = f"name other files, or set data.depth_scale (now {self.scale:g} units per metre) or data.max_depth"
        raise UserError("data", what, do)

    def warnings(self) -> list[str]:
        """What looks wrong, and its likely cause. Raises UserError if nearly all maps have their bytes swapped."""
        units = f"data.depth_scale (now {self.scale:g} units per metre)"
        lines = []
        if paths := self.odd.get(SWAPPED):
            what = f"{self._of(paths)} to have swapped bytes: in the other order their values stay below max_depth"
            do = "write PNGs from native 16-bit integers (NYU's raw PGM files have them swapped)"
            if len(paths) >= NEARLY_ALL * self.judged:
                raise UserError(paths[0], f"{what}, {self.max_depth:g} m", f"{do}; or raise data.max_depth")
            lines.append(f"{what}; {do}")
        if paths := self.odd.get(STRETCHED):
            what = f"{self._of(paths)} to hold 8-bit depth stretched to 16 bits: all values are multiples of 256 or 257"
            lines.append(f"{what}; take the 16-bit originals, since 8 bits have lost the depth")
        if paths := self._most(TOO_FAR):
            what = f"{self._of(paths)} mostly farther than {1.5 * self.max_depth:g} m, where data.max_depth is"
            lines.append(f"{what} {self.max_depth:g}; if that is wrong, correct {units} or data.max_depth")
        if paths := self._most(OF_8_BITS):
            what = f"{self._of(paths)} to have no value above 255, as in copies of 8-bit depth"
            lines.append(f"{what}; take the 16-bit originals, or correct {units}")
        if paths := self._most(TOO_NEAR):
            what = f"{self._of(paths)} to have no depth beyond {self.max_depth / 50:g} m, a fiftieth of data.max_depth"
            lines.append(f"{what}; if that is wrong, correct {units} or data.max_depth")
        return lines

    def _of(self, paths: list[Path]) -> str:
        return f"{len(paths)} of {self.judged} depth maps seem (the first: {paths[0]})"

    def _most(self, problem: str) -> list[Path]:
        """The maps with the problem, if they are more than half. Scenes differ: fewer prove nothing."""
        paths = self.odd.get(problem, [])
        return paths if len(paths) > self.judged / 2 else []


def problem_with(counts: np.ndarray, scale: float, max_depth: float) -> str | None:
    """What looks wrong with a map as a whole, from its counts [65536] of values that are measurements; None: nothing.

    Any of these: more than 32 different values that are all multiples of 256 or of 257 (8 bits stretched to 16); over a
    quarter of the values beyond max_depth, but less than 1 % of them after swapping the bytes; over half beyond 1.5
    max_depth; all at most 255 and below 0.1 max_depth; all below 0.02 max_depth.
    """
    measured = int(counts.sum())

    def share_beyond(histogram: np.ndarray, metres: float) -> float:
        return float(histogram[int(min(metres * scale, SATURATED)) + 1 :].sum() / measured)

    present = np.flatnonzero(counts)
    if len(present) > 32 and (not (present % 257).any() or not (present % 256).any()):
        return STRETCHED
    swapped = counts.reshape(256, 256).T.ravel()
    if share_beyond(counts, max_depth) > 0.25 and share_beyond(swapped, max_depth) < 0.01:
        return SWAPPED
    if share_beyond(counts, 1.5 * max_depth) > 0.5:
        return TOO_FAR
    largest = int(present[-1])
    if largest < 256 and largest / scale < max_depth / 10:
        return OF_8_BITS
    return TOO_NEAR if largest / scale < max_depth / 50 else None
