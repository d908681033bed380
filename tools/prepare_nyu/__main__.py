"""Fetch NYU Depth V2, convert it to the layout that `data.name: nyu` reads, and check it.

`python -m tools.prepare_nyu --root DIR [--labeled nyu_depth_v2_labeled.mat --splits splits.mat]`

Fetched, unless they lie in the root: the two lists of BTS (nyu_train.txt, nyu_test.txt), and for the test pairs the
official files of 1,449 labelled frames (2.8 GB) and of their split. What was stopped goes on; both are removed at the
end. With --labeled and --splits nothing is fetched: they name these two files.

The frames are converted to 654 test pairs and 795 training pairs, SCENE_TYPE/rgb_NUMBER.jpg and
SCENE_TYPE/sync_depth_NUMBER.png, and to the lists nyu_test.txt (unless the root has one) and nyu_train_795.txt. Depth
is that of the sensor (rawDepths), in whole millimetres, rounded down, 0 where nothing was measured. The white border of
the frames becomes black, as in the published test images.

The published training set of 24,231 pairs cannot be made from the official files. Its frames are in sync.zip of the
authors of BTS, on Google Drive, which must be fetched by hand (docs/depth.md); if it lies in the root, it is unpacked.

At the end the lists are named by their checksums, and `tools.check_data` reads everything that is complete; the command
ends with exit code 2 if training would stop.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import check_config
from errors import ArgumentParser, UserError, read_early, run_command

RECIPE = Path(__file__).parent.parent.parent / "configs/depth_dysample.yaml"


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.prepare_nyu", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder that data.root will name")
    parser.add_argument("--labeled", type=Path, help="nyu_depth_v2_labeled.mat, to convert")
    parser.add_argument("--splits", type=Path, help="splits.mat, which goes with it")
    parser.add_argument("--mirror", help="fetch the files from this address instead of the official ones")
    parser.add_argument("--keep", action="store_true", help="keep the fetched files of labelled frames")
    parser.add_argument("--cfg", type=Path, default=RECIPE, help="check the data by this configuration (%(default)s)")
    parser.add_argument("--no-check", action="store_true", help="do not read the data at the end")
    arguments = parser.parse_args()
    if (arguments.labeled is None) != (arguments.splits is None):
        raise UserError("command line", "--labeled and --splits go together", "name both, or none to fetch them")
    check_config(arguments.cfg)
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import cv2
import h5py
import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from datasets.files.unusable import Unusable
from datasets.nyu.lists import describe_list, find_pairs, format_list, read_list
from tools.check_data.findings import SplitName
from tools.check_data.text import check_and_print
from tools.prepare_nyu.files import (
    BY_HAND,
    LABELED,
    LISTS,
    SPLITS,
    TEST_LIST,
    TRAIN_LIST,
    count_pairs,
    obtain,
    place_frames,
    refuse_8_bits,
    refuse_other_copies,
)

OWN_TRAIN_LIST = "nyu_train_795.txt"
FOCAL_LENGTH = 518.8579  # pixels; the same for all frames
INSIDE = np.s_[7:474, 7:632]  # rows and columns within the white border of the 480 x 640 frames
FIELDS = ("images", "rawDepths", "sceneTypes")


def prepare(root: Path, mirror: str | None, keep: bool) -> None:
    """Fetch and convert what is missing. Raises UserError."""
    again = f"python -m tools.prepare_nyu --root {root}"
    refuse_other_copies(root)
    for name, entry in LISTS.items():
        if not (root / name).exists():
            obtain(entry, root / name, mirror, again)
    place_frames(root)
    for name in LISTS:
        refuse_8_bits(root, name)
    there, all_of_them = count_pairs(root, TEST_LIST)
    if there < all_of_them:
        labeled, splits = (
            obtain(entry, root / entry[0].rpartition("/")[2], mirror, again) for entry in (LABELED, SPLITS)
        )
        convert(labeled, splits, root)
        for path in () if keep else (labeled, splits):
            path.unlink()


def convert(labeled: Path, splits: Path, root: Path) -> None:
    """Write all pairs under `root`, then the lists. Raises UserError if a file has not the official format."""
    with _opened(labeled) as frames:
        count = len(frames["images"])
        train, test = _read_splits(splits, count)
        scenes = _read_scenes(frames, labeled)
        for index in tqdm(sorted([*train, *test]), unit="frame", disable=None):
            _write_frame(frames, index, root, *_pair(scenes, index), labeled)
    _write(root / OWN_TRAIN_LIST, _list(scenes, train))
    if not (root / TEST_LIST).exists():
        _write(root / TEST_LIST, _list(scenes, test))
    print(f"{labeled}: {len(test)} test and {len(train)} training pairs in {root}")


def check(root: Path) -> None:
    """Check the lists in `root` and print what they are. Raises UserError if there is no list, or a file is missing.

    If none of the frames of the published training list is there, this prints where they are to be had.
    """
    lists = [root / name for name in (TEST_LIST, TRAIN_LIST, OWN_TRAIN_LIST) if (root / name).exists()]
    if not lists:
        do = f"convert the labelled file with --labeled and --splits, or put {TRAIN_LIST} and {TEST_LIST} there"
        raise UserError(root, "holds no list of NYU pairs", do)
    for path in lists:
        pairs, skipped = read_list(path, "name another --root", Unusable("stop"))
        print(f"{path}: {describe_list(path)}")
        if path.name == TRAIN_LIST and count_pairs(root, TRAIN_LIST)[0] == 0:
            print(f"  {BY_HAND.format(root=root)}")
            continue
        find_pairs(path, root, pairs, with_images=True, unusable=Unusable("stop"))
        print(f"  all {2 * len(pairs)} files are there" + (f", {len(skipped)} lines have no depth" if skipped else ""))


def check_data(root: Path, cfg: Path) -> int:
    """Read what is complete, by a configuration. Returns the exit code of `tools.check_data`.

    Without the published training frames, the training split is the official one of 795 pairs, if it is there.
    """
    splits: list[SplitName] = ["train", "val"]
    overrides = []
    if not (root / TRAIN_LIST).exists() or count_pairs(root, TRAIN_LIST)[0] == 0:
        overrides = [f"data.train_list={OWN_TRAIN_LIST}"]
        splits = splits if (root / OWN_TRAIN_LIST).exists() else ["val"]
    return check_and_print(cfg, root, splits, overrides)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open the labelled file. Raises UserError if it cannot be read, also later, or is not the official file."""
    try:
        with h5py.File(path) as frames:
            missing = [name for name in FIELDS if name not in frames]
            if missing:
                raise UserError(path, f"has no field {missing[0]}", "name nyu_depth_v2_labeled.mat with --labeled")
            images, depths, scenes = (frames[name].shape for name in FIELDS)
            if images[1:] != (3, 640, 480) or depths != (images[0], 640, 480) or scenes != (1, images[0]):
                what = f"has images {images}, rawDepths {depths} and sceneTypes {scenes}"
                raise UserError(path, what, "name the official file: N x 3 x 640 x 480, N x 640 x 480 and 1 x N")
            yield frames
    except FileNotFoundError:
        raise UserError(path, "no such file", "correct --labeled") from None
    except OSError as error:
        what = f"is not a complete MATLAB 7.3 file (HDF5) ({error})"
        raise UserError(path, what, "fetch it again; it has 2.8 GB") from None


def _read_splits(path: Path, count: int) -> tuple[list[int], list[int]]:
    """Read the indices of training and test frames, counted from 0."""
    try:
        content = loadmat(path)
        parts = [content[name].astype(np.int64).ravel() - 1 for name in ("trainNdxs", "testNdxs")]
    except FileNotFoundError:
        raise UserError(path, "no such file", "correct --splits") from None
    except Exception as error:  # for a wrong file scipy raises many types of errors
        what = f"is not a MATLAB file with trainNdxs and testNdxs ({error})"
        raise UserError(path, what, "name the official splits.mat with --splits") from None
    frames = np.concatenate(parts)
    if len(np.unique(frames)) < len(frames) or frames.min() < 0 or frames.max() >= count:
        what = f"names a frame twice, or one that is not among the {count} labelled frames"
        raise UserError(path, what, "name the splits.mat that belongs to --labeled")
    train, test = (sorted(part.tolist()) for part in parts)
    return train, test


def _read_scenes(frames: h5py.File, path: Path) -> list[str]:
    """Read the scene type of every frame. The field holds references to arrays of character codes."""
    scenes = ["".join(map(chr, frames[reference][()].ravel())) for reference in frames["sceneTypes"][0]]
    wrong = [scene for scene in scenes if not re.fullmatch(r"\w+", scene)]
    if wrong:
        raise UserError(path, f"has a scene type {wrong[0][:40]!r}, which cannot name a folder", "fetch it again")
    return scenes


def _pair(scenes: list[str], index: int) -> tuple[str, str]:
    return f"{scenes[index]}/rgb_{index:05d}.jpg", f"{scenes[index]}/sync_depth_{index:05d}.png"


def _list(scenes: list[str], indices: list[int]) -> bytes:
    return format_list(sorted(_pair(scenes, index) for index in indices), FOCAL_LENGTH).encode()


def _write_frame(frames: h5py.File, index: int, root: Path, image_name: str, depth_name: str, source: Path) -> None:
    pixels = frames["images"][index].transpose(2, 1, 0)  # MATLAB's axes are in reverse order
    image = np.zeros_like(pixels)
    image[INSIDE] = pixels[INSIDE]
    depth = frames["rawDepths"][index].T * np.float32(1000)
    if not (depth.min() >= 0 and depth.max() < 2**16):
        what = f"rawDepths of frame {index + 1} are not between 0 and 65.535 metres"
        raise UserError(source, what, "fetch the official file again")
    _write(root / image_name, cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    _write(root / depth_name, cv2.imencode(".png", depth.astype(np.uint16))[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "free space or name another --root") from None


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if arguments.labeled is None:
        prepare(arguments.root, arguments.mirror, arguments.keep)
    else:
        convert(arguments.labeled, arguments.splits, arguments.root)
    check(arguments.root)
    code = 0 if arguments.no_check else check_data(arguments.root, arguments.cfg)
    print(f"train with data.root={arguments.root}")
    if code == 2:
        sys.exit(code)


if __name__ == "__main__":
    run_command(main)
