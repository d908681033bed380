"""Which images tools.predict takes, and that two of them never share one prediction."""

from pathlib import Path

import pytest

from errors import UserError
from experiment import load_experiment
from tools.predict import check_ids, find_images


def images(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


@pytest.mark.parametrize("cfg", ["det", "inst", "pan"])
def test_two_images_of_one_id_are_refused_before_anything_is_written(tmp_path: Path, cfg: str) -> None:
    paths = images(tmp_path, "1.jpg", "2.jpg", "01.jpg")
    files = load_experiment(f"configs/demo/{cfg}.yaml").data.prediction_files(tmp_path / "out")
    with pytest.raises(UserError) as error:
        check_ids(paths, files)
    assert str(error.value) == (
        f"{tmp_path}/01.jpg: has the id 1 in the predictions, as {tmp_path}/1.jpg has; "
        "rename one of them, or predict them in separate calls"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cfg", ["det", "pan"])
def test_names_that_are_no_numbers_stay_apart(tmp_path: Path, cfg: str) -> None:
    files = load_experiment(f"configs/demo/{cfg}.yaml").data.prediction_files(tmp_path)
    check_ids([Path(f"{name}.jpg") for name in ("1", "1a", "01a", "a1", "A1", "1.0", "10")], files)


@pytest.mark.parametrize("cfg", ["seg", "depth"])
def test_files_by_name_keep_1_and_01_apart(tmp_path: Path, cfg: str) -> None:
    files = load_experiment(f"configs/demo/{cfg}.yaml").data.prediction_files(tmp_path)
    check_ids([Path("1.jpg"), Path("01.jpg")], files)


def test_equal_names_in_two_folders_are_refused_with_both(tmp_path: Path) -> None:
    images(tmp_path, "a/1.jpg", "b/1.png")
    with pytest.raises(
        UserError, match=r"b/1\.png: would overwrite the prediction for .*a/1\.jpg; predict them in sep"
    ):
        find_images([tmp_path / "a", tmp_path / "b"])
