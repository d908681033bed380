"""Speed of mIoU and boundary IoU: `python -m benchmarks.evaluation.mean_iou`.

Random maps of 512 x 683 pixels and 150 classes with irregular regions, as in ADE20K. The peers: for mIoU the usual
joint `np.bincount` of truth and prediction; for both the same and, class by class, `mask_to_boundary` of
boundary-iou-api (`pip install git+https://github.com/bowenc0221/boundary-iou-api`). The numbers must be equal.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch

from benchmarks.evaluation.command import run
from benchmarks.pairs import Row, compare
from metrics.mean_iou import MeanIoU
from structures import IGNORE, Prediction, Size, Target

SIZE: Size = (512, 683)
CLASSES = 150
RATIO = 0.02
Pair = tuple[np.ndarray, np.ndarray]


def random_pair(rng: np.random.Generator) -> Pair:
    """A true map, of which 5 % are not labelled, and a prediction: the truth moved a little, some regions wrong."""
    regions = int(rng.integers(10, 40))
    coarse = rng.standard_normal((SIZE[0] // 8, SIZE[1] // 8)).astype(np.float32)
    noise = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    rows, columns = np.indices(SIZE, np.float32, sparse=True)
    points = rng.random((regions, 2)) * SIZE
    nearest = np.argmin([np.hypot(rows - y + 8 * noise, columns - x - 8 * noise) for y, x in points], axis=0)
    present = rng.choice(CLASSES, 9)
    labels = np.where(rng.random(regions) < 0.05, IGNORE, rng.choice(present, regions)).astype(np.int16)
    guesses = np.where(rng.random(regions) < 0.2, rng.choice(present, regions), labels.clip(0)).astype(np.int16)
    return labels[nearest], np.roll(guesses[nearest], (2, 2), axis=(0, 1))


def by_ours(pairs: list[Pair], ratio: float | None) -> list[float]:
    """mIoU, mAcc, aAcc and, with a ratio, bIoU in percent."""
    metric = MeanIoU(("",) * CLASSES, ratio)
    for labels, predicted in pairs:
        target = Target("", SIZE, semantic=torch.from_numpy(labels))
        metric.update([Prediction(semantic=torch.from_numpy(predicted))], [target])
    return list(metric.compute().values())


def by_bincount(pairs: list[Pair]) -> list[float]:
    """mIoU, mAcc and aAcc from one joint count of pixels per image."""
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for labels, predicted in pairs:
        known = (labels >= 0) & (labels < CLASSES)
        joint = CLASSES * labels[known].astype(int) + predicted[known]
        counts += np.bincount(joint, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    both, labelled, either = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0) + counts.sum(axis=1)
    seen = either > 0
    recalls = (both / np.maximum(labelled, 1))[labelled > 0]
    values = (both[seen] / (either - both)[seen]).mean(), recalls.mean(), both.sum() / labelled.sum()
    return [100 * float(value) for value in values]


def boundary_counts(pairs: list[Pair], mask_to_boundary: Callable[[np.ndarray, float], np.ndarray]) -> float:
    """BIoU by the boundaries of each class that occurs in an image."""
    both, either = np.zeros(CLASSES, np.int64), np.zeros(CLASSES, np.int64)
    for labels, predicted in pairs:
        known = np.where(labels == IGNORE, IGNORE, predicted)
        for label in np.union1d(labels, known):
            if label != IGNORE:
                bands = [mask_to_boundary((values == label).astype(np.uint8), RATIO) > 0 for values in (labels, known)]
                both[label] += np.count_nonzero(bands[0] & bands[1])
                either[label] += np.count_nonzero(bands[0] | bands[1])
    return 100 * float((both[either > 0] / either[either > 0]).mean())


def measure(images: int, rounds: int) -> list[Row]:
    """Compare both. Raises ValueError if the numbers differ."""
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng) for _ in range(images)]
    _check(by_ours(pairs, None), by_bincount(pairs))
    rows = [
        compare("mIoU", "bincount", lambda: by_ours(pairs, None), lambda: by_bincount(pairs), goal=1, rounds=rounds)
    ]
    try:
        from boundary_iou.utils.boundary_utils import mask_to_boundary
    except ImportError:
        theirs = None
    else:
        theirs = lambda: [*by_bincount(pairs), boundary_counts(pairs, mask_to_boundary)]  # noqa: E731
        _check(by_ours(pairs, RATIO), theirs())
    ours = lambda: by_ours(pairs, RATIO)  # noqa: E731
    rows.append(compare("mIoU and boundary IoU", "boundary-iou-api", ours, theirs, goal=4.5, rounds=rounds))
    return rows


def _check(ours: list[float], theirs: list[float]) -> None:
    if not np.allclose(ours, theirs, rtol=1e-12):
        raise ValueError(f"the numbers are {ours}, by the peer {theirs}")


def main() -> None:
    """Run the command."""
    run(__doc__, measure, images=50, rounds=5)


if __name__ == "__main__":
    main()
