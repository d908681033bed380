"""Which images tools.predict takes, and that two of them never share one prediction."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from errors import UserError
from experiment import load_experiment
from tools.predict import check_ids, find_images, pictures_of


def images(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


@pytest.mark.parametrize("cfg", ["det", "inst", "pan"])
def test_two_images_of_one_id_are_refused_before_anything_is_written(tmp_path: Path, cfg: str) -> None:
    paths = images(tmp_path, "1.jpg", "2.jpg", "01.jpg")
    files = load_experiment(f"configs/small/{cfg}.yaml").data.prediction_files(tmp_path / "out")
    with pytest.raises(UserError) as error:
        check_ids(paths, files)
    assert str(error.value) == (
        f"{tmp_path}/01.jpg: has the id 1 in the predictions, as {tmp_path}/1.jpg has; "
        "rename one of them, or predict them in separate calls"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cfg", ["det", "pan"])
def test_names_that_are_no_numbers_stay_apart(tmp_path: Path, cfg: str) -> None:
    files = load_experiment(f"configs/small/{cfg}.yaml").data.prediction_files(tmp_path)
    check_ids([Path(f"{name}.jpg") for name in ("1", "1a", "01a", "a1", "A1", "1.0", "10")], files)


@pytest.mark.parametrize("cfg", ["seg", "depth"])
def test_files_by_name_keep_1_and_01_apart(tmp_path: Path, cfg: str) -> None:
    files = load_experiment(f"configs/small/{cfg}.yaml").data.prediction_files(tmp_path)
    check_ids([Path("1.jpg"), Path("01.jpg")], files)


def test_equal_names_in_two_folders_are_refused_with_both(tmp_path: Path) -> None:
    images(tmp_path, "a/1.jpg", "b/1.png")
    with pytest.raises(
        UserError, match=r"b/1\.png: would overwrite the prediction for .*a/1\.jpg; predict them in sep"
    ):
        find_images([tmp_path / "a", tmp_path / "b"])


def test_a_pattern_names_files(tmp_path: Path) -> None:
    images(tmp_path, "a/1.jpg", "a/2.png", "b/3.jpg", "b/4.txt")
    assert [path.name for path in find_images([tmp_path / "*" / "*.jpg"])] == ["1.jpg", "3.jpg"]
    with pytest.raises(UserError, match="no such image or folder"):
        find_images([tmp_path / "c*"])


def test_a_file_with_a_star_in_its_name_is_that_file(tmp_path: Path) -> None:
    images(tmp_path, "[1].jpg", "1.jpg")
    assert find_images([tmp_path / "[1].jpg"]) == [tmp_path / "[1].jpg"]


def test_the_frames_of_a_video_are_pictures(tmp_path: Path) -> None:
    path = tmp_path / "walk.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in (0, 100, 200):
        video.write(np.full((48, 64, 3), (0, 0, level), np.uint8))  # blue, green, red
    video.release()
    found = list(pictures_of(path, None))
    assert [name for name, _ in found] == ["walk_000001", "walk_000002", "walk_000003"]
    assert [abs(int(frame[..., 0].mean()) - level) < 5 for (_, frame), level in zip(found, (0, 100, 200), strict=True)]
    assert found[2][1][..., 2].mean() < 20  # red stays red
    assert find_images([tmp_path]) == [path]


def test_a_video_without_frames_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken.mp4: has no frame that OpenCV can read"):
        next(pictures_of(tmp_path / "broken.mp4", None))
