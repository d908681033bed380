"""Write a set of scenes in parallel. The files do not depend on the number of workers, and are complete or absent."""

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.scenes import formats
from datasets.scenes.classes import SCENE_CLASSES
from datasets.scenes.labels import segments
from datasets.scenes.layout import DIFFICULTIES, make_scene
from datasets.scenes.render import Rendering, Scene, render

VERSION = 1  # increase it when the same settings give different files
MANIFEST = "scenes.json"
FOLDERS = {"ade": "ADEChallengeData2016", "coco": "coco", "nyu": "nyu"}
EMPTY_EVERY = 20  # one in this many scenes has no things
SMALLEST = 32  # pixels, of each side


@dataclass(frozen=True)
class Settings:
    """The settings that the files depend on."""

    train: int
    val: int
    size: tuple[int, int]
    seed: int
    difficulty: str = "hard"

    def __post_init__(self) -> None:
        if self.train < 1 or self.val < 1:
            raise ValueError(f"train and val must be at least 1, not {self.train} and {self.val}")
        if min(self.size) < SMALLEST:
            raise ValueError(f"height and width must be at least {SMALLEST}, not {self.size[0]} and {self.size[1]}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty must be {' or '.join(DIFFICULTIES)}, not {self.difficulty}")

    def manifest(self) -> dict[str, Any]:
        """The content of the manifest file."""
        return {"version": VERSION, **asdict(self), "size": list(self.size), "classes": list(SCENE_CLASSES)}


def write_scenes(
    root: Path,
    train: int = 300,
    val: int = 60,
    size: tuple[int, int] = (120, 160),
    seed: int = 0,
    workers: int | None = None,
    difficulty: str = "hard",
) -> None:
    """Write `train` and `val` scenes of size (H, W) under `root` in the layouts of ADE20K, COCO and NYU Depth V2.

    Does nothing if exactly these scenes are already there, and replaces scenes with other settings. Raises ValueError,
    and changes nothing, if the folder contains anything else. workers: number of processes, by default one per core.

    Workers are spawned, so a script that calls this needs the usual `if __name__ == "__main__"`.
    """
    settings = Settings(train, val, (int(size[0]), int(size[1])), seed, difficulty)
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    root = Path(root).resolve()
    if _up_to_date(root, settings):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    try:
        _write_all(partial, settings, min(workers, train + val))
        _move_into_place(partial, root, settings)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def render_scene(settings: Settings, split: str, index: int) -> tuple[Scene, Rendering, np.random.Generator]:
    """One scene, its rendering, and the random generator for its depth sensor."""
    key = [settings.seed, 0 if split == "train" else 1, index]
    layout, camera, sensor = np.random.default_rng(key).spawn(3)
    scene = make_scene(layout, index % EMPTY_EVERY == 1, settings.difficulty)
    return scene, render(scene, settings.size, camera), sensor


def _write_all(root: Path, settings: Settings, workers: int) -> None:
    jobs = [("train", i) for i in range(settings.train)] + [("val", i) for i in range(settings.val)]
    with _parallel_map(workers) as parallel_map:
        records = list(parallel_map(_write_one, repeat(root), repeat(settings), *zip(*jobs, strict=True)))
    by_split = {split: [r for (s, _), r in zip(jobs, records, strict=True) if s == split] for split in ("train", "val")}
    for split, rows in by_split.items():
        formats.write_coco_index(root / FOLDERS["coco"], split, [row["coco"] for row in rows])
        formats.write_nyu_list(root / FOLDERS["nyu"], split, [row["nyu"] for row in rows])
    counts = {split: [row["ade"] for row in rows] for split, rows in by_split.items()}
    formats.write_class_list(root / FOLDERS["ade"], counts)
    (root / MANIFEST).write_text(json.dumps(settings.manifest(), indent=2) + "\n")
    root.chmod(0o755)  # mkdtemp makes folders that other users cannot read


def _write_one(root: Path, settings: Settings, split: str, index: int) -> dict[str, Any]:
    scene, rendering, rng = render_scene(settings, split, index)
    picture = formats.Picture(split, index, scene.kind, rendering, segments(rendering, scene.crowds))
    jpeg = formats.jpeg(rendering.rgb)
    return {
        "ade": formats.write_ade(root / FOLDERS["ade"], picture, jpeg),
        "coco": formats.write_coco(root / FOLDERS["coco"], picture, jpeg),
        "nyu": formats.write_nyu(root / FOLDERS["nyu"], picture, jpeg, rng),
    }


@contextmanager
def _parallel_map(workers: int) -> Iterator[Any]:
    """A function like `map` that runs in worker processes; with one worker the built-in `map`."""
    if workers == 1:
        yield map
        return
    # Spawned, not forked: a forked child can hang if PyTorch was running threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield lambda function, *arguments: pool.map(function, *arguments, chunksize=4)


def _up_to_date(root: Path, settings: Settings) -> bool:
    """Whether `root` contains these scenes. Raises ValueError if it contains anything other than scenes."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        ours = "version" in manifest and {path.name for path in root.iterdir()} <= {MANIFEST, *FOLDERS.values()}
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise ValueError(f"{root} holds something other than embedded scenes; choose another folder")
    return bool(manifest == settings.manifest())


def _move_into_place(partial: Path, root: Path, settings: Settings) -> None:
    if _up_to_date(root, settings):
        return  # meanwhile another process has written the same scenes
    old = partial.with_name(f"{partial.name}-old")
    if root.exists():
        root.rename(old)
    try:
        partial.rename(root)
    except OSError:
        if old.exists() and not root.exists():
            old.rename(root)
        raise
    shutil.rmtree(old, ignore_errors=True)
