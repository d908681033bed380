from pathlib import Path

import pytest

from datasets.files.folders import Files, evenly_spread, find_file, list_files, split_end
from datasets.files.images import IMAGE_SUFFIXES
from errors import UserError

COMPOSED, DECOMPOSED = "\u00fc", "u\u0308"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.JPG", f"{DECOMPOSED}.png", f"stra{DECOMPOSED}e/c.PNG", "twice.PNG", "twice.Png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ("a.jpg", "a.jpg"),
        ("a.JPG", "a.jpg"),
        ("b.jpg", "b.JPG"),
        (f"{COMPOSED}.png", f"{DECOMPOSED}.png"),
        (f"{COMPOSED}.PNG", f"{DECOMPOSED}.png"),
        (f"stra{COMPOSED}e/c.png", f"stra{DECOMPOSED}e/c.PNG"),
        ("twice.Png", "twice.Png"),
        ("A.jpg", None),
        ("a.jpeg", None),
        ("nowhere/a.jpg", None),
    ],
)
def test_names_are_found_as_listed(folder: Path, asked: str, listed: str | None) -> None:
    files = Files(folder)
    assert files.find(asked) == listed
    assert (asked in files) == (listed is not None)
    expected = folder / (listed or asked)
    assert find_file(folder / asked) == expected or "/" in asked


def test_a_name_that_may_be_either_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"twice\.png may be twice\.PNG or twice\.Png"):
        Files(folder).find("twice.png")
    assert find_file(folder / "twice.png") == folder / "twice.png"


def test_equal_ids_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"has the same stem as twice\.PNG"):
        list_files(folder, {".png"})


def test_a_folder_with_the_suffix_of_a_file_is_listed(tmp_path: Path) -> None:
    """So that reading it is an error that names it."""
    (tmp_path / "a.png").mkdir()
    assert list_files(tmp_path, {".png"}) == {"a": "a.png"}


@pytest.mark.parametrize("name", ["a.JPEG", "a.jpe", "a.jfif", "a.JPG", "a.TIF"])
def test_usual_suffixes_of_images_are_listed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert list_files(tmp_path, IMAGE_SUFFIXES) == {"a": name}


def test_ends_of_names() -> None:
    suffixes = frozenset({".png", ".jpg"})
    assert split_end("", suffixes) == ("", suffixes)
    assert split_end(".PNG", suffixes) == ("", {".png"})
    assert split_end("_x.jpg", suffixes) == ("_x", {".jpg"})
    assert split_end("_x.y", suffixes) == ("_x.y", suffixes)


def test_evenly_spread() -> None:
    assert evenly_spread(3, 5) == [0, 1, 2]
    assert evenly_spread(10, 4) == [0, 2, 5, 7]
