import hashlib
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from config import validate
from datasets.nyu import lists as nyu_lists
from datasets.nyu.dataset import NYU, NYUConfig
from errors import UserError

TRANSFORMS = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}
FOLDERS = {"train_images": "rgb", "train_depths": "depth"}
MakeConfig = Callable[..., NYUConfig]


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the scenes that a test may break."""
    return Path(shutil.copytree(scenes / "nyu", tmp_path / "data"))


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    def make(**options: Any) -> NYUConfig:
        return validate(NYUConfig, {"root": str(tmp_path / "data"), **TRANSFORMS, **options}, "data")

    return make


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three images of different sizes and their depth maps, in two folders."""
    rng = np.random.default_rng(0)
    for number, size in enumerate([(20, 30), (31, 17), (24, 24)]):
        write(tmp_path / f"data/rgb/room.{number}.jpg", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        write(tmp_path / f"data/depth/room.{number}.png", rng.integers(500, 9000, size).astype(np.uint16))
    return tmp_path / "data"


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def fields(root: Path, name: str) -> list[list[str]]:
    return [[field.lstrip("/") for field in line.split()] for line in (root / name).read_text().splitlines()]


def depths(dataset: NYU, index: int = 0) -> np.ndarray:
    depth = dataset.load(index).depth
    assert depth is not None
    return depth


def refused(build: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        build()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the official form -----------------------------------------------------------------------------------------------


def test_info_and_prediction_files_need_no_data(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(root="nowhere", max_depth=8)
    assert (config.info.task, config.info.name, config.info.max_depth) == ("depth", "nyu", 8)
    config.prediction_files(tmp_path)


@pytest.mark.parametrize(("split", "name", "count"), [("train", "nyu_train.txt", 10), ("val", "nyu_test.txt", 5)])
def test_pairs_come_in_the_order_of_the_list(
    root: Path, make_config: MakeConfig, split: Any, name: str, count: int
) -> None:
    dataset = make_config().build(split)
    assert len(dataset) == count
    for index, line in enumerate((root / name).read_text().splitlines()):
        assert line.startswith("/") == (split == "train")
        image, depth = (field.lstrip("/") for field in line.split()[:2])
        sample, target = dataset.load(index), dataset.target(index)
        stored = cv2.imread(str(root / depth), cv2.IMREAD_UNCHANGED)
        folder, file = image.split("/")
        assert sample.image_id == target.image_id == f"{folder}_{file.removesuffix('.jpg')}"
        assert sample.size == target.size == stored.shape == (48, 64)
        assert np.array_equal(sample.image, cv2.imread(str(root / image))[..., ::-1])
        assert sample.depth is not None
        assert target.depth is not None
        assert sample.depth.dtype == np.float32
        assert np.array_equal(sample.depth, (stored / 1000).astype(np.float32))
        assert np.array_equal(target.depth.numpy(), sample.depth)
        assert (stored == 0).any()


def test_target_opens_no_image_and_scoring_needs_none(root: Path, make_config: MakeConfig) -> None:
    dataset = make_config().build("val")
    for path in root.rglob("*.jpg"):
        path.unlink()
    before = dataset.target(2)
    after = make_config().build("val", annotations_only=True).target(2)
    assert before.depth is not None
    assert after.depth is not None
    assert before.image_id == after.image_id
    assert np.array_equal(before.depth, after.depth)


def test_scale_is_in_file_units_per_metre(root: Path, make_config: MakeConfig) -> None:
    millimetres = depths(make_config().build("val"))
    assert np.allclose(depths(make_config(depth_scale=2000).build("val")), millimetres / 2)


def test_what_is_too_near_or_too_far_counts_as_not_measured(root: Path, make_config: MakeConfig) -> None:
    all_depths = depths(make_config().build("val"))
    low, high = np.quantile(all_depths[all_depths > 0], [0.3, 0.8]).tolist()
    kept = depths(make_config(min_depth=low, max_depth=high).build("val"))
    inside = (all_depths >= np.float32(low)) & (all_depths <= np.float32(high))
    assert 0 < inside.sum() < (all_depths > 0).sum()
    assert np.array_equal(kept, np.where(inside, all_depths, 0))


def test_own_list_with_blank_lines_and_without_focal_lengths(root: Path, make_config: MakeConfig) -> None:
    lines = [" ".join(line[:2]) for line in fields(root, "nyu_test.txt")]
    (root / "own.txt").write_text("\r\n\r\n".join(lines) + "\r\n\r\n")
    assert len(make_config(val_list="own.txt").build("val")) == 5
    assert len(make_config(val_list=str(root / "own.txt")).build("val")) == 5


def test_lines_without_depth_are_skipped_and_listed(root: Path, make_config: MakeConfig) -> None:
    with (root / "nyu_test.txt").open("a") as file:
        file.write("\nkitchen/rgb_9.jpg None 518.8579")
    dataset = make_config().build("val")
    assert len(dataset) == 5
    assert dataset.skipped == [f"{root}/nyu_test.txt line 6: kitchen/rgb_9.jpg has no depth"]


# --- which list it is ------------------------------------------------------------------------------------------------


def test_own_lists_are_named_with_count_and_checksum(root: Path, make_config: MakeConfig) -> None:
    checksum = hashlib.sha256((root / "nyu_train.txt").read_bytes()).hexdigest()
    protocol = make_config().build("val").protocol
    assert protocol["train_data"] == f"own list nyu_train.txt, 10 pairs, sha256 {checksum}"
    assert protocol["val_data"].startswith("own list nyu_test.txt, 5 pairs, sha256 ")
    (root / "nyu_train.txt").unlink()
    assert "not on this machine" in make_config().build("val").protocol["train_data"]


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", "\r\n") + "\r\n", lambda text: text + "\n"])
def test_published_lists_are_recognised_by_checksum(
    root: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]
) -> None:
    text = (root / "nyu_test.txt").read_text()
    monkeypatch.setattr(nyu_lists, "PUBLISHED", {hashlib.sha256(text.encode()).hexdigest(): "the one"})
    (root / "nyu_test.txt").write_bytes(change(text).encode())
    assert make_config().describe("val") == "the one"
    (root / "nyu_test.txt").write_text(change(text).replace("rgb_00001", "rgb_00009"))
    assert make_config().describe("val").startswith("own list")


def test_published_test_list_is_recognised_in_any_order(
    root: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [" ".join(line[:2]) for line in fields(root, "nyu_test.txt")]
    checksum = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    monkeypatch.setattr(nyu_lists, "PUBLISHED", {checksum: "the one"})
    (root / "nyu_test.txt").write_text("".join(f"/{line.replace(' ', ' /')} 0.0\n" for line in reversed(lines)))
    assert make_config().describe("val") == "the one"


# --- own folders -----------------------------------------------------------------------------------------------------


def test_own_folders_are_paired_by_stem(own: Path, make_config: MakeConfig) -> None:
    dataset = make_config(**FOLDERS).build("train")
    assert [dataset.load(index).image_id for index in range(3)] == ["room.0", "room.1", "room.2"]
    assert [dataset.target(index).size for index in range(3)] == [(20, 30), (31, 17), (24, 24)]
    assert dataset.protocol["train_data"] == "own folders rgb and depth"
    absolute = make_config(train_images=str(own / "rgb"), train_depths=str(own / "depth"), root=str(own / "rgb"))
    assert np.array_equal(depths(absolute.build("train"), 1), depths(dataset, 1))


def test_scoring_own_folders_needs_no_images(own: Path, make_config: MakeConfig) -> None:
    shutil.rmtree(own / "rgb")
    dataset = make_config(**FOLDERS).build("train", annotations_only=True)
    assert [dataset.target(index).image_id for index in range(3)] == ["room.0", "room.1", "room.2"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rgb/room.1.jpg", "depth/room.1.png: no file with this stem in"),
        ("depth/room.2.png", "rgb/room.2.jpg: no file with this stem in"),
        ("depth", "depth: no such folder; correct data.train_depths"),
        ("rgb", "rgb: no such folder; correct data.train_images"),
    ],
)
def test_files_missing_in_own_folders_are_named(own: Path, make_config: MakeConfig, path: str, expected: str) -> None:
    (own / path).rename(own / "elsewhere")
    assert expected in refused(lambda: make_config(**FOLDERS).build("train"))


def test_folder_without_depth_maps(own: Path, make_config: MakeConfig) -> None:
    message = refused(lambda: make_config(train_images="rgb", train_depths="rgb").build("train"))
    assert "rgb: holds no .png file; correct data.train_depths" in message


# --- one line for everything that can be wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"train_images": "rgb"}, "train_depths is missing; name both folders"),
        ({"val_depths": "depth"}, "val_images is missing"),
        ({**FOLDERS, "train_list": "a.txt"}, "train_list and train_images are both set"),
        ({"min_depth": 10}, "min_depth 10 is not below max_depth 10"),
        ({"depth_scale": 0}, "depth_scale: 0 is not possible"),
        ({"max_depht": 5}, "did you mean max_depth?"),
        ({"test_transforms": ["gamma_jitter", "normalize"]}, "unknown name gamma_jitter"),
    ],
)
def test_impossible_configurations(make_config: MakeConfig, options: dict[str, Any], expected: str) -> None:
    assert expected in refused(lambda: make_config(**options))


def test_missing_root_and_root_one_folder_too_high(root: Path, make_config: MakeConfig) -> None:
    assert "tools.prepare_nyu --root gone" in refused(lambda: make_config(root="gone").build("val"))
    root.rename(root.parent / "nyu")
    message = refused(lambda: make_config(root=str(root.parent)).build("val"))
    assert f"set data.root={root.parent}/nyu" in message


def test_missing_list_says_where_it_comes_from(root: Path, make_config: MakeConfig) -> None:
    (root / "nyu_train.txt").unlink()
    message = refused(lambda: make_config().build("train"))
    assert "nyu_train.txt: no such file; put nyudepthv2_train_files_with_gt.txt of https" in message
    assert "own.txt: no such file; name a list in data.train_list" in refused(
        lambda: make_config(train_list="own.txt").build("train")
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.jpg", "'a.jpg' is not `image depth focal-length`"),
        ("a b.jpg a b.png 518.8", "is not `image depth focal-length`"),
        ("a.jpg a.png wide", "is not `image depth focal-length`"),
        ("../a.jpg a.png 518.8", "../a.jpg leads out of data.root"),
        ("x/../../a.jpg a.png 518.8", "leads out of data.root"),
    ],
)
def test_malformed_lines_are_named(root: Path, make_config: MakeConfig, line: str, expected: str) -> None:
    text = (root / "nyu_test.txt").read_text()
    (root / "nyu_test.txt").write_text(f"{text}\n\n{line}")
    message = refused(lambda: make_config().build("val"))
    assert f"{root}/nyu_test.txt line 7: " in message
    assert expected in message


def test_images_of_one_name_are_refused(root: Path, make_config: MakeConfig) -> None:
    first = fields(root, "nyu_test.txt")[0]
    with (root / "nyu_test.txt").open("a") as file:
        file.write(f"\n{first[0].replace('/', '_')} {first[1]} 500")
    message = refused(lambda: make_config().build("val"))
    assert "nyu_test.txt line 6: image" in message
    assert "as that of line 1; list every image once" in message


def test_list_without_pairs_or_of_another_kind(root: Path, make_config: MakeConfig) -> None:
    (root / "nyu_test.txt").write_text("\n\n")
    assert "lists no pair" in refused(lambda: make_config().build("val"))
    (root / "nyu_test.txt").write_bytes(b"\xff\xd8\xff")
    assert "is not a text file" in refused(lambda: make_config().build("val"))


def test_missing_files_are_named_with_their_line(root: Path, make_config: MakeConfig) -> None:
    second, fourth = (fields(root, "nyu_train.txt")[index] for index in (1, 3))
    (root / second[0]).unlink()
    (root / fourth[1]).unlink()
    message = refused(lambda: make_config().build("train"))
    assert f"nyu_train.txt line 2: {root}/{second[0]} is missing (and 1 more files of the list);" in message
    message = refused(lambda: make_config().build("train", annotations_only=True))
    assert f"nyu_train.txt line 4: {root}/{fourth[1]} is missing; add" in message


def test_depth_of_another_size(own: Path, make_config: MakeConfig) -> None:
    write(own / "depth/room.0.png", np.full((30, 20), 2000, np.uint16))
    message = refused(lambda: make_config(**FOLDERS).build("train").load(0))
    assert "depth/room.0.png: is 20 x 30 pixels (width x height) but" in message
    assert "displayed at 30 x 20" in message
    assert "set data.resize_depth=true" in message


def test_smaller_depth_is_resized_by_the_nearest_pixel_if_asked(own: Path, make_config: MakeConfig) -> None:
    values = np.arange(1, 151, dtype=np.uint16).reshape(10, 15) * 50
    values[3, 4] = 0
    write(own / "depth/room.0.png", values)
    dataset = make_config(**FOLDERS, resize_depth=True).build("train", annotations_only=True)
    expected = (values.repeat(2, axis=0).repeat(2, axis=1) / 1000).astype(np.float32)
    assert np.array_equal(depths(dataset), expected)
    target = dataset.target(0)
    assert target.size == (20, 30)
    assert target.depth is not None
    assert np.array_equal(target.depth.numpy(), expected)


def test_depth_of_another_shape_is_not_resized(own: Path, make_config: MakeConfig) -> None:
    write(own / "depth/room.0.png", np.full((30, 20), 2000, np.uint16))
    message = refused(lambda: make_config(**FOLDERS, resize_depth=True).build("train").load(0))
    assert "depth/room.0.png: is 20 x 30 pixels (width x height), another shape than that of its image" in message


def test_subfolders_of_own_folders_are_searched(own: Path, make_config: MakeConfig) -> None:
    for path in [*(own / "rgb").iterdir(), *(own / "depth").iterdir()]:
        (path.parent / f"hall {path.stem[-1]}").mkdir()
        path.rename(path.parent / f"hall {path.stem[-1]}" / path.name)
    dataset = make_config(**FOLDERS).build("train")
    assert [dataset.load(index).image_id for index in range(3)] == [f"hall {i}_room.{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("image", "depth"), [("stra\u00dfe\u0308.JPG", "strae\u0301.PNG"), ("u\u0308.JPG", "u\u0308.PNG")]
)
def test_a_list_finds_names_of_other_unicode_form_and_suffix_case(
    own: Path, make_config: MakeConfig, image: str, depth: str
) -> None:
    (own / "rgb/room.0.jpg").rename(own / "rgb" / image)
    (own / "depth/room.0.png").rename(own / "depth" / depth)
    composed = [unicodedata.normalize("NFC", name) for name in (image, depth)]
    (own / "list.txt").write_text(f"rgb/{composed[0][:-4]}.jpg depth/{composed[1][:-4]}.png")
    dataset = make_config(train_list="list.txt").build("train")
    assert dataset.load(0).image_id == f"rgb_{composed[0][:-4]}"
    scoring = make_config(train_list="list.txt").build("train", annotations_only=True)
    assert scoring.target(0).image_id == dataset.image_id(0)


# --- depth that is none ----------------------------------------------------------------------------------------------


def ramp(low: float = 500, high: float = 6000) -> np.ndarray:
    """A depth map as sensors give it: smooth, in millimetres, with a hole."""
    values = np.linspace(low, high, 60 * 80).reshape(60, 80)
    values[5:9, 3:20] = 0
    return values.astype(np.uint16)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((ramp() >> 5).astype(np.uint8), "has 8 bits per pixel, at most 256 different distances; take the 16-bit"),
        (np.repeat((ramp() >> 5).astype(np.uint8)[..., None], 3, 2), "has pixels of kind RGB where one distance"),
    ],
)
def test_files_that_are_no_depth_are_refused_before_the_start_and_when_read(
    own: Path, make_config: MakeConfig, values: np.ndarray, expected: str
) -> None:
    write(own / "depth/room.0.png", values)
    dataset = make_config(**FOLDERS).build("train")
    for act in (dataset.survey, lambda: dataset.target(0), lambda: dataset.load(0)):
        message = refused(act)
        assert message.startswith(f"{own}/depth/room.0.png: ")
        assert expected in message


def test_files_that_are_no_png_or_damaged(own: Path, make_config: MakeConfig) -> None:
    dataset, path = make_config(**FOLDERS).build("train"), own / "depth/room.0.png"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "room.0.png: is damaged or truncated" in refused(lambda: dataset.target(0))
    path.write_bytes(b"")
    assert "the file is empty" in refused(lambda: dataset.target(0))
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path, format="JPEG")
    assert "is a JPEG file; store depth as a 16-bit PNG" in refused(lambda: dataset.target(0))
    Image.fromarray(np.zeros((20, 30), np.uint8)).convert("P").save(path)
    assert "has pixels of kind P" in refused(lambda: dataset.target(0))
    path.unlink()
    assert "no such file" in refused(lambda: dataset.target(0))
