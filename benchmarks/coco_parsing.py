"""Time and memory to read COCO annotations with masks: `python -m benchmarks.coco_parsing [--images N] [--json FILE]`.

Ours checks every entry and turns every polygon into run lengths; pycocotools only parses and indexes. Each reads the
same made-up file, seven objects an image with outlines of 40 points, in a process of its own; they take turns. Seconds
are those of the processor, since a busy machine lengthens any other. The peak memory is that of the whole process,
with all that it has imported.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.pairs import Row, publish
from benchmarks.segformer_step import positive
from datasets.coco.annotations import read_annotations
from datasets.coco.json_file import EntryErrors
from errors import ArgumentParser, run_command

OBJECTS, POINTS = 7, 40
READERS = ("ours", "pycocotools")
GOAL, PEAK_GOAL = 1.0, 1.5  # of the time, times ours; of the memory, GiB for 118,287 images
CHUNK = 1000  # images that are written at once


def write_file(path: Path, images: int) -> None:
    """A file in the form of instances_train2017.json."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        entries = (f'{{"id": {i}, "file_name": "{i:012}.jpg", "height": 480, "width": 640}}' for i in range(images))
        file.write(f'{{"images": [{", ".join(entries)}], "annotations": [')
        for start in range(0, images, CHUNK):
            owners = np.repeat(np.arange(start, min(start + CHUNK, images)), OBJECTS)
            angles = np.sort(rng.uniform(0, 2 * np.pi, (len(owners), POINTS)))
            radii = rng.uniform(8, 75, (len(owners), 1)) * rng.uniform(0.8, 1.05, angles.shape)
            centres = rng.uniform(80, 400, (len(owners), 2, 1))
            points = (centres + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]).round(2)
            corner = points.min(axis=2)
            boxes = np.concatenate([corner, points.max(axis=2) - corner], axis=1).round(2)
            outlines = points.transpose(0, 2, 1).reshape(len(owners), -1).tolist()
            records = [
                {"segmentation": [outline], "area": box[2] * box[3], "iscrowd": 0}
                | {"image_id": owner, "bbox": box, "category_id": 1, "id": start * OBJECTS + number}
                for number, (outline, box, owner) in enumerate(
                    zip(outlines, boxes.tolist(), owners.tolist(), strict=True)
                )
            ]
            file.write((", " if start else "") + json.dumps(records)[1:-1])
        file.write('], "categories": [{"id": 1, "name": "person"}]}')


def measure(reader: str, path: Path) -> dict[str, float]:
    """Seconds and peak memory in GiB of this process, which reads the file."""
    if reader == "ours":
        start = time.process_time()
        errors = EntryErrors(path, "stop")
        read = read_annotations(path, {1: "person"}, masks=True, images=None, entry_errors=errors)
    else:
        from pycocotools.coco import COCO

        start = time.process_time()
        read = COCO(str(path))
    seconds = time.process_time() - start
    del read
    return {"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.coco_parsing", description=__doc__)
    parser.add_argument("--images", type=positive, default=118_287, help="default: %(default)s, as COCO's training set")
    parser.add_argument("--rounds", type=positive, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", nargs=2, metavar=("READER", "FILE"), help="used by the command itself")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train2017.json"
        write_file(path, arguments.images)
        found = [{reader: _in_process(reader, path) for reader in READERS} for _ in range(arguments.rounds)]
    ours, theirs = ([run[reader]["seconds"] for run in found] for reader in READERS)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    work = f"{arguments.images} images with {arguments.images * OBJECTS} masks, processor time"
    row = Row(work, "pycocotools", median(ours), median(theirs), median(ratios), GOAL)
    peaks = {reader: round(max(run[reader]["peak_gb"] for run in found), 2) for reader in READERS}
    publish([row], arguments.json, images=arguments.images, rounds=arguments.rounds, peak_gb=peaks)
    print(f"peak memory: {peaks['ours']} GiB against {peaks['pycocotools']} GiB (goal {PEAK_GOAL} GiB)")


def _in_process(reader: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.coco_parsing", "--measure", reader, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    run_command(main)
