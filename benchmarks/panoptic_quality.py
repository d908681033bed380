"""Speed of panoptic quality in images per second: `python -m benchmarks.panoptic_quality [--images 100]`. Prints JSON.

One process scores random maps of 640 x 480 pixels and 133 classes. They have irregular segments, on average about 12
true and 16 predicted ones, which is somewhat more than in COCO. The median over rounds is reported.
"""

import argparse
import datetime
import json
import statistics
import time
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.segformer_step import positive
from metrics.panoptic_quality import PanopticQuality
from structures import Panoptic, Prediction, Target
from workflow.environment import cpu_name

HEIGHT, WIDTH = 480, 640
CLASSES, THINGS = 133, 80


def random_map(rng: np.random.Generator) -> Panoptic:
    """A random segmentation: each pixel gets the segment of the nearest of several random points; the first is void.

    Noise in the distances makes the borders irregular.
    """
    segments = int(rng.integers(5, 19))
    coarse = rng.standard_normal((HEIGHT // 8, WIDTH // 8)).astype(np.float32)
    noise = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    points = rng.random((segments + 1, 2)) * [HEIGHT, WIDTH]
    rows, columns = np.indices((HEIGHT, WIDTH), np.float32, sparse=True)
    distances = [np.hypot(rows - y + 12 * noise, columns - x - 12 * noise) for y, x in points]
    segment_ids = np.concatenate([[0], rng.choice(2**24 - 1, segments, replace=False) + 1]).astype(np.int32)
    ids = segment_ids[np.argmin(distances, axis=0)]
    labels = {segment: int(rng.integers(CLASSES)) for segment in np.unique(ids).tolist() if segment}
    return Panoptic(torch.from_numpy(ids), labels)


def random_pair(rng: np.random.Generator) -> tuple[Panoptic, Panoptic]:
    """A true and a predicted map. The left three quarters of the prediction are the slightly shifted truth."""
    true, found = random_map(rng), random_map(rng)
    limit = WIDTH * 3 // 4
    found.ids[:, :limit] = true.ids.roll((3, 3), dims=(0, 1))[:, :limit]
    labels = true.labels | found.labels
    return true, Panoptic(found.ids, {segment: labels[segment] for segment in found.ids.unique().tolist() if segment})


def measure(images: int, rounds: int) -> dict[str, Any]:
    """Measure images per second. Also return what was scored."""
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng) for _ in range(images)]
    predictions = [Prediction(panoptic=found) for _, found in pairs]
    targets = [Target(str(name), (HEIGHT, WIDTH), panoptic=true) for name, (true, _) in enumerate(pairs)]
    seconds = []
    for _ in range(rounds + 1):  # the first one warms up
        metric = PanopticQuality(("",) * CLASSES, tuple(label < THINGS for label in range(CLASSES)))
        start = time.perf_counter()
        metric.update(predictions, targets)
        numbers = metric.compute()
        seconds.append(time.perf_counter() - start)
    return {
        "images": images,
        "height": HEIGHT,
        "width": WIDTH,
        "classes": CLASSES,
        "true_segments": round(statistics.mean(len(true.labels) for true, _ in pairs), 1),
        "predicted_segments": round(statistics.mean(len(found.labels) for _, found in pairs), 1),
        "PQ": round(numbers["PQ"], 2),
        "images_per_second": round(images / statistics.median(seconds[1:]), 1),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=5)
    arguments = parser.parse_args()
    about = {"date": str(datetime.date.today()), "device": cpu_name(), "threads": torch.get_num_threads()}
    print(json.dumps({**about, **measure(arguments.images, arguments.rounds)}, indent=2))


if __name__ == "__main__":
    main()
