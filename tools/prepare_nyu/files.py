"""The published files of NYU Depth V2: what can be fetched, what cannot, and what is known not to do."""

import os
from pathlib import Path

from datasets.files.unusable import Unusable
from datasets.nyu.depth_maps import read_depth_values
from datasets.nyu.lists import read_list
from downloads import RemoteFile, fetch
from downloads.archives import unpack
from errors import UserError

NYU = "http://horatio.cs.nyu.edu/mit/silberman"
BTS = "https://raw.githubusercontent.com/cleinc/bts/5e3406b35d1497b2e55d2dd600524d1f4efacaed"
# url, digest, size
LABELED = (
    f"{NYU}/nyu_depth_v2/nyu_depth_v2_labeled.mat",
    "sha256:2d724b0c0ab358aa1ce5df855e5bd14a2279ab7202efe22f32a30d612dcb86aa",
    2_972_037_809,
)
SPLITS = (
    "https://raw.githubusercontent.com/cleinc/bts/master/utils/splits.mat",  # a copy of that on NYU's page
    "sha256:6e081404491a8bfba2f066beaa9713ef6046f9007aa5f799f2a350506a580cee",
    2_626,
)
TRAIN_LIST, TEST_LIST = "nyu_train.txt", "nyu_test.txt"
LISTS = {
    TRAIN_LIST: (
        f"{BTS}/train_test_inputs/nyudepthv2_train_files_with_gt.txt",
        "sha256:66e2beb718a58c5c946c169f6e70cc6ae166ddd19f5618266fff52ff7443e0e9",
        None,
    ),
    TEST_LIST: (
        f"{BTS}/train_test_inputs/nyudepthv2_test_files_with_gt.txt",
        "sha256:e92c191d5835a22589b843c11b80cd7235d5bd0d4136e42a6debcea4511bf906",
        None,
    ),
}
FRAMES = "sync.zip"
FETCH_AGAIN = "run the same command again to fetch it"
BY_HAND = (
    f"the 24,231 training frames cannot be fetched by a program: {FRAMES} is on Google Drive, linked in the README of "
    "https://github.com/cleinc/bts (NYU Depth V2). Fetch it with a browser, store it as {root}/" + FRAMES + " (or "
    "unpack it to {root}), and run this command again"
)
DENSEDEPTH = ("nyu2_train", "nyu2_test", "data/nyu2_train", "data/nyu2_test", "nyu2_train.csv", "data/nyu2_train.csv")


def obtain(entry: tuple[str, str, int | None], path: Path, mirror: str | None, again: str) -> Path:
    """Fetch one of the published files to `path`, unless it is there. mirror: see `tools.archives.obtain`."""
    url, digest, size = entry
    if mirror is None:
        return fetch(RemoteFile(url, path, digest, size, again))
    return fetch(RemoteFile(f"{mirror.rstrip('/')}/{url.rpartition('/')[2]}", path, again=again))


def refuse_other_copies(root: Path) -> None:
    """Raise UserError if the root holds another version of NYU, whose depth is useless here."""
    for name in DENSEDEPTH:
        if os.path.exists(root / name):
            what = f"holds {name} of DenseDepth's copy of NYU (nyu_data.zip), whose training depth has 8 bits"
            do = f"choose another --root; {FRAMES}, linked in the README of https://github.com/cleinc/bts, has 16"
            raise UserError(root, what, do)


def refuse_8_bits(root: Path, name: str) -> None:
    """Raise UserError if the first depth map of a list that is there cannot be used, for example has 8 bits."""
    for pair in read_list(root / name, f"remove it, and {FETCH_AGAIN}", Unusable("stop"))[0]:
        if os.path.isfile(root / pair.depth):
            read_depth_values(root / pair.depth)
            return


def place_frames(root: Path) -> None:
    """Unpack sync.zip if it lies in the root, and move the folders in `sync` to where the lists expect them."""
    archive, inner = root / FRAMES, root / "sync"
    if archive.is_file() and not inner.is_dir() and count_pairs(root, TRAIN_LIST)[0] == 0:
        print(f"{archive}: {len(unpack(archive, root, None)):,} files; it may now be removed")
    if not inner.is_dir():
        return
    moved = 0
    try:
        for name in sorted(os.listdir(inner)):
            if (inner / name).is_dir() and not (root / name).exists():
                os.rename(inner / name, root / name)
                moved += 1
        if not os.listdir(inner):
            inner.rmdir()
    except OSError as error:
        raise UserError(inner, f"its folders cannot be moved to {root} ({error.strerror})", "move them there") from None
    print(f"{inner}: {moved} folders moved to {root}, where the lists expect them")


def count_pairs(root: Path, name: str) -> tuple[int, int]:
    """How many pairs of a list are there, and how many it has. Raises UserError if the list cannot be read."""
    pairs, _ = read_list(root / name, f"remove it, and {FETCH_AGAIN}", Unusable("stop"))
    return sum(all(os.path.exists(root / path) for path in (pair.image, pair.depth)) for pair in pairs), len(pairs)
