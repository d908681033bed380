"""Convert NYU Depth V2 to the layout that `data.name: nyu` reads, and check which of its files are there.

`python -m tools.prepare_nyu --root DIR [--labeled nyu_depth_v2_labeled.mat --splits splits.mat]`

--labeled, --splits: the official files of 1,449 labelled frames and of their split. They are converted to 654 test
pairs and 795 training pairs, SCENE_TYPE/rgb_NUMBER.jpg and SCENE_TYPE/sync_depth_NUMBER.png, and to the lists
nyu_test.txt (unless the root has one) and nyu_train_795.txt. Depth is that of the sensor (rawDepths), in whole
millimetres, rounded down, 0 where nothing was measured. The white border of the frames becomes black, as in the
published test images.

At the end, or if neither option is given, the lists in the root are checked: whether they are the published ones, by
checksum, and whether all their files are there. The published training set of 24,231 pairs cannot be made from the
official files: its list (nyu_train.txt) and its frames come from the authors of BTS (docs/depth.md).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import h5py
import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from datasets.nyu.lists import describe_list, find_pairs, format_list, read_list
from errors import ArgumentParser, UserError, run_command

TEST_LIST, TRAIN_LIST, OWN_TRAIN_LIST = "nyu_test.txt", "nyu_train.txt", "nyu_train_795.txt"
FOCAL_LENGTH = 518.8579  # pixels; the same for all frames
INSIDE = np.s_[7:474, 7:632]  # rows and columns within the white border of the 480 x 640 frames
FIELDS = ("images", "rawDepths", "sceneTypes")


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
    """Check the lists in `root` and print what they are. Raises UserError if there is no list, or a file is missing."""
    lists = [root / name for name in (TEST_LIST, TRAIN_LIST, OWN_TRAIN_LIST) if (root / name).exists()]
    if not lists:
        do = f"convert the labelled file with --labeled and --splits, or put {TRAIN_LIST} and {TEST_LIST} there"
        raise UserError(root, "holds no list of NYU pairs", do)
    for path in lists:
        pairs, skipped = read_list(path, "name another --root")
        print(f"{path}: {describe_list(path)}")
        find_pairs(path, root, pairs, with_images=True)
        print(f"  all {2 * len(pairs)} files are there" + (f", {len(skipped)} lines have no depth" if skipped else ""))


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
    parser = ArgumentParser(prog="tools.prepare_nyu", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder that data.root will name")
    parser.add_argument("--labeled", type=Path, help="nyu_depth_v2_labeled.mat, to convert")
    parser.add_argument("--splits", type=Path, help="splits.mat, which goes with it")
    arguments = parser.parse_args()
    if (arguments.labeled is None) != (arguments.splits is None):
        raise UserError("command line", "--labeled and --splits go together", "name both, or none to check only")
    if arguments.labeled is not None:
        convert(arguments.labeled, arguments.splits, arguments.root)
    check(arguments.root)


if __name__ == "__main__":
    run_command(main)
