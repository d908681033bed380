"""tools.prepare_nyu on small files in the form of the official ones."""

import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat

import downloads
from config import validate
from datasets.nyu.dataset import NYUConfig
from errors import UserError, run_command
from tests.loopback import serve
from tests.tools.test_prepare_archives import zipped
from tools.prepare_nyu import __main__ as prepare_nyu
from tools.prepare_nyu.files import LABELED, LISTS, SPLITS

SCENES = ["kitchen", "office_kitchen", "bathroom", "kitchen", "living_room"]
TRAIN, TEST = [2, 5], [4, 1, 3]  # counted from 1, as in MATLAB
TRANSFORMS = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}


def frame(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image [480, 640, 3], smooth so that JPEG keeps it, with a white border, and depth [480, 640] in metres."""
    y, x = np.mgrid[:480, :640]
    image = np.stack([y * 255 // 480, x * 255 // 640, np.full_like(x, 40 * index)], axis=2).astype(np.uint8)
    image[:7], image[474:], image[:, :7], image[:, 632:] = 255, 255, 255, 255
    depth = (1 + index + (x + 2 * y) / 700).astype(np.float32)
    depth[100:110, 200:240] = 0
    return image, depth


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A folder with the official files."""
    folder = tmp_path_factory.mktemp("official")
    write_official(folder)
    return folder


def write_official(folder: Path) -> None:
    """Write the labelled file and the split, axes reversed as h5py sees MATLAB's."""
    frames = [frame(index) for index in range(len(SCENES))]
    with h5py.File(folder / "labeled.mat", "w", userblock_size=512) as file:
        file["images"] = np.stack([image.transpose(2, 1, 0) for image, _ in frames])
        file["rawDepths"] = np.stack([depth.T for _, depth in frames])
        file["depths"] = np.full((len(frames), 640, 480), 3, np.float32)
        references = []
        for index, scene in enumerate(SCENES):
            text = file.create_dataset(f"#refs#/{index}", data=np.array([[ord(letter)] for letter in scene], np.uint16))
            references.append(text.ref)
        file.create_dataset("sceneTypes", data=np.array([references], dtype=h5py.ref_dtype))
    save_splits(folder / "splits.mat", TRAIN, TEST)


def save_splits(path: Path, train: list[int], test: list[int]) -> None:
    parts = {"trainNdxs": np.array(train, np.uint16)[:, None], "testNdxs": np.array(test, np.uint16)[:, None]}
    savemat(path, parts, do_compression=True)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; exit code, what it printed, and its line on stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare_nyu", "--no-check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_command(prepare_nyu.main)
        done = capsys.readouterr()
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in done.err
        return stop.value.code, done.out, "\n".join(errors)

    return call


def files(official: Path, **replaced: Path) -> list[object]:
    labeled = replaced.get("labeled", official / "labeled.mat")
    return ["--labeled", labeled, "--splits", replaced.get("splits", official / "splits.mat")]


def test_test_and_training_pairs_are_what_the_loader_reads(run, official, tmp_path):
    root = tmp_path / "nyu"
    code, output, _ = run("--root", root, *files(official))
    assert code == 0
    assert "3 test and 2 training pairs" in output
    assert "nyu_test.txt: own list nyu_test.txt, 3 pairs, sha256" in output
    lines = (root / "nyu_test.txt").read_text().split("\n")
    assert lines[0] == "bathroom/rgb_00002.jpg bathroom/sync_depth_00002.png 518.8579"
    assert [line.split()[0] for line in lines[1:]] == ["kitchen/rgb_00000.jpg", "kitchen/rgb_00003.jpg"]
    config = validate(NYUConfig, {"root": str(root), "train_list": "nyu_train_795.txt", **TRANSFORMS}, "data")
    assert [sample.image_id for sample in map(config.build("train").load, range(2))] == [
        "living_room_rgb_00004",
        "office_kitchen_rgb_00001",
    ]
    dataset = config.build("val")
    for position, index in enumerate((2, 0, 3)):
        sample, (image, depth) = dataset.load(position), frame(index)
        assert np.array_equal(sample.depth, np.floor(depth * np.float32(1000)) / np.float32(1000))
        assert abs(sample.image[12:468, 12:626].astype(int) - image[12:468, 12:626]).max() < 12
        for border in (sample.image[:4], sample.image[478:], sample.image[:, :4], sample.image[:, 636:]):
            assert border.max() < 30


def test_an_existing_test_list_is_kept(run, official, tmp_path):
    (tmp_path / "nyu_test.txt").write_text("/kitchen/rgb_00003.jpg /kitchen/sync_depth_00003.png 518.8579\n")
    code, output, _ = run("--root", tmp_path, *files(official))
    assert code == 0
    assert "own list nyu_test.txt, 1 pairs" in output
    assert (tmp_path / "nyu_test.txt").read_text().startswith("/kitchen")


def test_conversion_can_be_repeated_and_checked(run, official, tmp_path, capsys):
    run("--root", tmp_path, *files(official))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert run("--root", tmp_path, *files(official))[0] == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    prepare_nyu.check(tmp_path)
    assert capsys.readouterr().out.count("files are there") == 2
    (tmp_path / "kitchen/sync_depth_00003.png").unlink()
    with pytest.raises(UserError, match=r"nyu_test\.txt line 3: .*sync_depth_00003\.png is missing"):
        prepare_nyu.check(tmp_path)


def test_depth_is_rounded_down_like_the_published_one(run, official, tmp_path):
    run("--root", tmp_path, *files(official))
    stored = cv2.imread(str(tmp_path / "kitchen/sync_depth_00000.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert stored[0, 1] == 1001  # 1 + 1/700 m is 1001.43 mm
    assert stored[0, 6] == 1008  # 1008.57 mm
    assert stored[105, 220] == 0


def test_wrong_command_lines(run, official, tmp_path):
    assert "go together" in run("--root", tmp_path, "--labeled", official / "labeled.mat")[2]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file; correct --labeled"),
        (b"MATLAB 5.0 MAT-file", "is not a complete MATLAB 7.3 file (HDF5)"),
        ({"images": (1, 3, 640, 480)}, "has no field rawDepths"),
        (
            {"images": (1, 480, 640, 3), "rawDepths": (1, 480, 640), "sceneTypes": (1, 1)},
            "has images (1, 480, 640, 3), rawDepths (1, 480, 640) and sceneTypes (1, 1)",
        ),
    ],
)
def test_unusable_labelled_files(run, official, tmp_path, content, expected):
    path = tmp_path / "other.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        with h5py.File(path, "w") as file:
            for name, shape in content.items():
                file[name] = np.zeros(shape, np.uint8)
    code, _, error = run("--root", tmp_path / "nyu", *files(official, labeled=path))
    assert code == 2
    assert f"{path}: {expected}" in error


def test_truncated_labelled_file_leaves_no_list(run, official, tmp_path):
    path = tmp_path / "part.mat"
    path.write_bytes((official / "labeled.mat").read_bytes()[:3_000_000])
    code, _, error = run("--root", tmp_path / "nyu", *files(official, labeled=path))
    assert (code, "is not a complete" in error) == (2, True)
    assert not list((tmp_path / "nyu").glob("*.txt"))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([1, 2], [2, 3], "names a frame twice"),
        ([1, 2], [3, 6], "one that is not among the 5 labelled frames"),
        ([0, 1], [2], "one that is not among"),
    ],
)
def test_splits_of_another_file(run, official, tmp_path, train, test, expected):
    save_splits(tmp_path / "splits.mat", train, test)
    error = run("--root", tmp_path, *files(official, splits=tmp_path / "splits.mat"))[2]
    assert expected in error


@pytest.mark.parametrize("content", [None, b"", b"not a file of MATLAB" * 20])
def test_unusable_splits(run, official, tmp_path, content):
    if content is not None:
        (tmp_path / "splits.mat").write_bytes(content)
    code, _, error = run("--root", tmp_path, *files(official, splits=tmp_path / "splits.mat"))
    assert code == 2
    assert "splits.mat" in error


def test_splits_without_the_fields(run, official, tmp_path):
    savemat(tmp_path / "splits.mat", {"train": np.arange(3)})
    error = run("--root", tmp_path, *files(official, splits=tmp_path / "splits.mat"))[2]
    assert "is not a MATLAB file with trainNdxs and testNdxs" in error


# --- fetching, from a server on the loopback address -----------------------------------------------------------------

TRAIN_LINES = "/study_0001a/rgb_00007.jpg /study_0001a/sync_depth_00007.png 518.8579\n"


def nyu_files(folder: Path) -> dict[str, bytes]:
    """What is published, by address; made in `folder`."""
    folder.mkdir(exist_ok=True)
    write_official(folder)
    return published(folder)


def published(official: Path) -> dict[str, bytes]:
    """What is published, by address."""
    pairs = sorted((SCENES[index - 1], index - 1) for index in TEST)
    lines = [f"{scene}/rgb_{index:05d}.jpg {scene}/sync_depth_{index:05d}.png 518.8579" for scene, index in pairs]
    return {
        LISTS["nyu_train.txt"][0]: TRAIN_LINES.encode(),
        LISTS["nyu_test.txt"][0]: "\n".join(lines).encode(),
        LABELED[0]: (official / "labeled.mat").read_bytes(),
        SPLITS[0]: (official / "splits.mat").read_bytes(),
    }


@pytest.fixture
def server(official, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    with serve({f"/{url.rpartition('/')[2]}": content for url, content in published(official).items()}) as server:
        yield server


def training_frames(folder: Path) -> None:
    image, depth = frame(6)
    for path, pixels in (("rgb_00007.jpg", image), ("sync_depth_00007.png", (depth * 1000).astype(np.uint16))):
        (folder / "study_0001a").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / "study_0001a" / path), pixels)


def test_all_that_may_be_fetched_is_fetched_and_the_rest_is_named(run, server, tmp_path):
    code, output, _ = run("--root", tmp_path, "--mirror", server.url)
    assert code == 0
    assert len(list(tmp_path.rglob("sync_depth_*.png"))) == 5
    assert not list(tmp_path.glob("*.mat"))
    assert "cannot be fetched by a program" in output
    assert "sync.zip is on Google Drive, linked in the README of https://github.com/cleinc/bts" in output
    assert f"store it as {tmp_path}/sync.zip" in output


def test_a_second_start_fetches_nothing(run, server, tmp_path):
    run("--root", tmp_path, "--mirror", server.url)
    count = len(server.requests)
    assert run("--root", tmp_path, "--mirror", server.url)[0] == 0
    assert len(server.requests) == count


def test_a_missing_file_is_made_again(run, server, tmp_path):
    run("--root", tmp_path, "--mirror", server.url)
    path = tmp_path / "kitchen/sync_depth_00003.png"
    content = path.read_bytes()
    path.unlink()
    assert run("--root", tmp_path, "--mirror", server.url)[0] == 0
    assert path.read_bytes() == content


def test_a_cut_in_every_file_ends_with_the_same_bytes(run, server, official, tmp_path):
    run("--root", tmp_path / "whole", *files(official))
    whole = 10**9
    server.cuts = [10, whole, 10, whole, 1_000_000, whole, 100, whole]
    assert run("--root", tmp_path / "cut", "--mirror", server.url, "--keep")[0] == 0
    assert (tmp_path / "cut/nyu_depth_v2_labeled.mat").read_bytes() == (official / "labeled.mat").read_bytes()
    for path in (tmp_path / "whole").rglob("sync_depth_*.png"):
        assert (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert len([asked for _, asked in server.requests if asked]) == 4


def test_frames_of_an_unpacked_archive_are_moved_where_the_lists_expect_them(run, server, tmp_path):
    training_frames(tmp_path / "sync")
    code, output, _ = run("--root", tmp_path, "--mirror", server.url)
    assert code == 0
    assert (tmp_path / "study_0001a/rgb_00007.jpg").exists()
    assert not (tmp_path / "sync").exists()
    assert "all 2 files are there" in output


def test_the_archive_of_frames_is_unpacked(run, server, tmp_path):
    training_frames(tmp_path / "other/sync")
    (tmp_path / "sync.zip").write_bytes(zipped(tmp_path / "other", ["sync"]))
    assert run("--root", tmp_path, "--mirror", server.url)[0] == 0
    assert (tmp_path / "study_0001a/sync_depth_00007.png").exists()


def test_the_8_bit_copy_of_densedepth_is_refused(run, server, tmp_path):
    (tmp_path / "data/nyu2_train").mkdir(parents=True)
    code, _, error = run("--root", tmp_path, "--mirror", server.url)
    assert code == 2
    assert "data/nyu2_train of DenseDepth's copy of NYU (nyu_data.zip), whose training depth has 8 bits" in error
    assert not server.requests


def test_8_bit_training_frames_are_refused(run, server, tmp_path):
    training_frames(tmp_path)
    cv2.imwrite(str(tmp_path / "study_0001a/sync_depth_00007.png"), np.full((480, 640), 9, np.uint8))
    code, _, error = run("--root", tmp_path, "--mirror", server.url)
    assert code == 2
    assert "sync_depth_00007.png: has 8 bits per pixel" in error


def test_it_ends_with_the_report_of_the_data_that_are_there(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.check_data.text.processors", lambda: 0)
    for frames, expected in ((False, "train: 2 images"), (True, "train: 1 image")):
        if frames:
            training_frames(tmp_path)
        monkeypatch.setattr(sys, "argv", ["prepare_nyu", "--root", str(tmp_path), "--mirror", server.url])
        with pytest.raises(SystemExit) as stop:
            run_command(prepare_nyu.main)
        output = capsys.readouterr().out
        assert stop.value.code == 0
        assert expected in output
        assert "val: 3 images" in output
        assert "sound: nothing was found" in output
