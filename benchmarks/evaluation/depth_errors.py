"""Speed of depth errors against plain NumPy: `python -m benchmarks.evaluation.depth_errors`.

Random maps of 480 x 640 with holes, scored in Eigen's crop between 0.001 m and 10 m. The peer is the usual function of
published code (BTS, AdaBins and others): each of the nine errors by one expression over the valid pixels in float32.
Ours computes them in float64; both must agree to four digits.
"""

import cv2
import numpy as np
import torch

from benchmarks.evaluation.command import run
from benchmarks.pairs import Row, compare
from metrics.depth_errors import NAMES, DepthErrors
from structures import Prediction, Size, Target

SIZE: Size = (480, 640)
ROWS, COLUMNS = slice(45, 471), slice(41, 601)
LOWEST, HIGHEST = 0.001, 10.0
GOAL = 1.2


def random_maps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A smooth true map, with holes at 5 % of its pixels, and a prediction about 10 % off."""
    coarse = rng.uniform(0.7, 9, (8, 10)).astype(np.float32)
    true = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    error = cv2.resize(rng.normal(0, 0.1, (24, 32)), SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    holes = cv2.resize(rng.random((24, 32)), SIZE[::-1], interpolation=cv2.INTER_NEAREST) < 0.05
    return np.where(holes, np.float32(0), true), (true * np.exp(error)).astype(np.float32)


def by_ours(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The nine errors."""
    metric = DepthErrors("eigen", "images", LOWEST, HIGHEST)
    for number, (true, predicted) in enumerate(pairs):
        target = Target(str(number), SIZE, depth=torch.from_numpy(true))
        metric.update([Prediction(depth=torch.from_numpy(predicted))], [target])
    return list(metric.compute().values())


def by_numpy(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The same from float32."""
    rows = []
    for whole_true, whole_predicted in pairs:
        true, predicted = whole_true[ROWS, COLUMNS], whole_predicted[ROWS, COLUMNS].clip(LOWEST, HIGHEST)
        valid = (true > LOWEST) & (true < HIGHEST)
        rows.append(errors_of_image(true[valid], predicted[valid]))
    return np.mean(rows, axis=0).tolist()


def errors_of_image(true: np.ndarray, predicted: np.ndarray) -> list[float]:
    """The errors of one image from its valid depths [N] float32."""
    ratios = np.maximum(true / predicted, predicted / true)
    logs = np.log(predicted) - np.log(true)
    values = (
        *((ratios < 1.25**power).mean() for power in (1, 2, 3)),
        np.mean(np.abs(true - predicted) / true),
        np.sqrt(((true - predicted) ** 2).mean()),
        np.mean(np.abs(np.log10(predicted) - np.log10(true))),
        np.sqrt(((np.log(true) - np.log(predicted)) ** 2).mean()),
        np.mean((true - predicted) ** 2 / true),
        np.sqrt(np.mean(logs**2) - np.mean(logs) ** 2) * 100,
    )
    return [float(value) for value in values]


def measure(images: int, rounds: int) -> list[Row]:
    """Compare both. Raises ValueError if the numbers differ."""
    rng = np.random.default_rng(0)
    pairs = [random_maps(rng) for _ in range(images)]
    ours, theirs = by_ours(pairs), by_numpy(pairs)
    for name, value, expected in zip(NAMES, ours, theirs, strict=True):
        if abs(value - expected) > 1e-4 * expected:
            raise ValueError(f"{name} is {value}, by the peer {expected}")
    peer = "plain NumPy in float32"
    return [compare("depth errors", peer, lambda: by_ours(pairs), lambda: by_numpy(pairs), goal=GOAL, rounds=rounds)]


def main() -> None:
    """Run the command."""
    run(__doc__, measure, images=100, rounds=7)


if __name__ == "__main__":
    main()
