import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.panoptic.ids import read_ids
from datasets.scenes.classes import CLASSES
from tests.datasets.coco.coco_layout import refused
from tests.datasets.panoptic.panoptic_layout import config, store
from tools.make_panoptic import main

Make = Callable[..., None]
SIZE = (8, 10)
STUFF = ["7=wall", "300=floor", "9=wall"]
# id, image, category, crowd, and the rectangle x, y, w, h: a large one, two that lie within, the second on the first
OBJECTS = [
    (1, 5, 3, 0, (0, 0, 6, 6)),
    (2, 5, 3, 0, (1, 1, 2, 3)),
    (3, 5, 1, 0, (1, 1, 2, 3)),
    (4, 5, 1, 1, (0, 0, 10, 2)),
]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Runs the command."""

    def made(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["make_panoptic", *map(str, words)])
        main()

    return made


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two images in a subfolder, of which one has no object; their label maps; the instances."""
    annotations = []
    for key, image, category, crowd, (x, y, w, h) in OBJECTS:
        mask = np.zeros(SIZE, np.uint8)
        mask[y : y + h, x : x + w] = 1
        runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
        counts = np.diff([0, *runs, mask.size])
        annotations.append(
            {
                "id": key,
                "image_id": image,
                "category_id": category,
                "iscrowd": crowd,
                "bbox": [x, y, w, h],
                "segmentation": {"size": list(SIZE), "counts": counts.tolist()},
            }
        )
    (tmp_path / "labels/a").mkdir(parents=True)
    (tmp_path / "images/a").mkdir(parents=True)
    images = []
    for key in (5, 4):
        images.append({"id": key, "file_name": f"a/{key}.jpg", "height": SIZE[0], "width": SIZE[1]})
        labels = np.full(SIZE, 7, np.uint16)
        labels[2:, 7:], labels[7:], labels[0, 9] = 300, 9, 255
        cv2.imwrite(str(tmp_path / f"labels/a/{key}.png"), labels)
        cv2.imwrite(str(tmp_path / f"images/a/{key}.jpg"), np.zeros((*SIZE, 3), np.uint8))
    categories = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]
    store(tmp_path, {"images": images, "annotations": annotations, "categories": categories}, "objects.json")
    return tmp_path


def words(layout: Path, **options: Any) -> list[object]:
    """The command line, with some options replaced."""
    defaults = {"instances": layout / "objects.json", "semantic": layout / "labels", "stuff": STUFF, "void": ["255"]}
    result: list[object] = []
    for name, values in {**defaults, "out": layout / "new/train.json", **options}.items():
        result += [f"--{name}", *(values if isinstance(values, list) else [values])]
    return result


def made(layout: Path, image: int) -> tuple[dict[int, tuple[str, int]], np.ndarray]:
    """Name and crowd flag of every segment of an image, and its ids."""
    content = json.loads((layout / "new/train.json").read_text())
    names = {item["id"]: item["name"] for item in content["categories"]}
    record = next(item for item in content["annotations"] if item["image_id"] == image)
    ids = read_ids(layout / "new/train" / record["file_name"])
    for item in record["segments_info"]:
        rows, columns = np.nonzero(ids == item["id"])
        x, y = columns.min(), rows.min()
        assert item["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert item["area"] == len(rows)
    return {item["id"]: (names[item["category_id"]], item["iscrowd"]) for item in record["segments_info"]}, ids


def test_label_maps_are_opened_by_the_name_that_their_folder_lists(layout: Path, make: Make) -> None:
    (layout / "labels/a/5.png").rename(layout / "labels/a/5.PNG")
    make(*words(layout))
    assert made(layout, 5)


def test_small_objects_are_on_top_and_crowds_below(layout: Path, make: Make, capsys: pytest.CaptureFixture) -> None:
    make(*words(layout))
    segments, ids = made(layout, 5)
    # Of 2 and 3, which are equal, the later is on top; 5 and 6 are stuff.
    assert segments == {1: ("car", 0), 3: ("person", 0), 4: ("person", 1), 5: ("wall", 0), 6: ("floor", 0)}
    expected = np.full(SIZE, 5)
    expected[2:, 7:], expected[7:], expected[:2], expected[:6, :6], expected[1:4, 1:3] = 6, 5, 4, 1, 3
    assert np.array_equal(ids, expected)
    assert "7 segments in 2 images\nleft out as hidden by others: 1 object(s)\nstuff: 4 wall, 5 floor\n" in (
        capsys.readouterr().out
    )


def test_images_without_objects_have_stuff(layout: Path, make: Make) -> None:
    make(*words(layout))
    segments, ids = made(layout, 4)
    assert segments == {1: ("wall", 0), 2: ("floor", 0)}
    expected = np.ones(SIZE)
    expected[2:7, 7:], expected[0, 9] = 2, 0
    assert np.array_equal(ids, expected)


def test_objects_may_be_painted_in_the_order_of_the_file(layout: Path, make: Make) -> None:
    content = json.loads((layout / "objects.json").read_text())
    content["annotations"].reverse()
    store(layout, content, "objects.json")
    make(*words(layout, overlap="order"))
    segments, ids = made(layout, 5)
    assert segments == {1: ("person", 1), 4: ("car", 0), 5: ("wall", 0), 6: ("floor", 0)}
    assert (ids[:6, :6] == 4).all()


def test_everything_that_is_no_stuff_may_be_void(layout: Path, make: Make) -> None:
    make(*words(layout, stuff=["300=floor"], void=["rest"]))
    segments, ids = made(layout, 4)
    assert segments == {1: ("floor", 0)}
    assert (ids == 0).sum() == 80 - 15


def test_the_result_is_data_to_train_on(layout: Path, make: Make) -> None:
    make(*words(layout))
    make(*words(layout, out=layout / "new/val.json"))
    given = config(
        layout,
        classes=None,
        train_annotations="new/train.json",
        val_annotations="new/val.json",
        train_images="images",
        val_images="images",
        min_side=1,
    )
    assert given.info.classes == ("person", "car", "wall", "floor")
    assert given.info.things == (True, True, False, False)
    sample = given.build("train").load(0)
    assert sample.image_id == "5"
    assert sample.objects is not None
    assert sample.objects.labels.tolist() == [1, 0, 0]
    assert sample.objects.crowd.tolist() == [False, False, True]
    assert len(given.build("val")) == 2


def test_the_embedded_scenes_are_made_again(scenes: Path, tmp_path: Path, make: Make) -> None:
    """Their objects do not overlap, so objects and label maps say all that their panoptic files say."""
    stuff = [f"{entry.category_id - 1}={entry.name}" for entry in CLASSES if not entry.is_thing]
    source = scenes / "coco/annotations/panoptic_train2017.json"
    make(
        *("--instances", scenes / "coco/annotations/instances_train2017.json", "--stuff", *stuff, "--void", "rest"),
        *("--semantic", scenes / "coco/stuffthingmaps/train2017", "--out", tmp_path / "new/train.json"),
    )
    original = json.loads(source.read_text())
    names = {item["id"]: item["name"] for item in original["categories"]}
    for record in original["annotations"]:
        segments, ids = made(tmp_path, record["image_id"])
        expected = read_ids(source.with_suffix("") / record["file_name"])
        for item in record["segments_info"]:
            (number,) = np.unique(ids[expected == item["id"]])
            assert ((ids == number) == (expected == item["id"])).all()
            assert segments[number] == (names[item["category_id"]], item["iscrowd"])
        assert len(segments) == len(record["segments_info"])
        assert ((ids == 0) == (expected == 0)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instances": "absent.json"}, "--instances absent.json: no such file; name a COCO file with masks"),
        ({"semantic": "absent"}, "--semantic absent: no such folder; name the folder of label maps"),
        ({"stuff": ["7:wall"]}, "argument 7:wall: is not valid; write for example --stuff 1=wall"),
        ({"stuff": ["7="]}, "argument 7=: is not valid"),
        ({"stuff": ["wall=7"]}, "argument wall=7: is not valid"),
        ({"stuff": ["65536=wall"]}, "argument 65536=wall: is not valid"),
        ({"void": ["-1"]}, "argument -1: is not valid"),
        ({"void": ["1=x"]}, "argument 1=x: is not valid"),
        ({"void": ["7"]}, "argument 7: value 7 is already defined; leave one out"),
        ({"stuff": ["7=a", "7=b"]}, "argument 7=b: value 7 is already defined"),
        ({"stuff": ["7=car"]}, "--stuff car: is a category of"),
        (
            {"stuff": ["7=wall", "9=wall"]},
            "a/4.png: value 300 at row 2, column 7 is neither stuff nor void; list it in",
        ),
        ({"overlap": "larger"}, "command line: "),
        ({"out": "new/train"}, "--out new/train: is not the name of a .json file"),
        ({"stuff": []}, "command line: "),
    ],
)
def test_wrong_options(layout: Path, make: Make, options: dict[str, Any], message: str) -> None:
    assert message in refused(lambda: make(*words(layout, **options)))
    assert not (layout / "new/train.json").exists()


def test_what_is_not_overwritten(layout: Path, make: Make) -> None:
    assert "would overwrite --instances" in refused(lambda: make(*words(layout, out=layout / "objects.json")))
    assert "would write PNGs into" in refused(lambda: make(*words(layout, out=layout / "labels.json")))
    assert "would write PNGs into" in refused(lambda: make(*words(layout, out=layout / "labels/a.json")))
    for pictures in ("images", "images/a"):
        line = refused(lambda: make(*words(layout, out=layout / f"{pictures}.json")))  # noqa: B023
        assert f"would write PNGs into {layout / pictures}, which holds other files; choose another name" in line


def test_an_earlier_result_is_replaced(layout: Path, make: Make) -> None:
    (layout / "labels/a/5.png").rename(layout / "labels/5.png")
    cv2.imwrite(str(layout / "labels/a/5.png"), np.full(SIZE, 1, np.uint8))
    assert "value 1 at row 0, column 0 is neither" in refused(lambda: make(*words(layout)))
    (layout / "labels/5.png").rename(layout / "labels/a/5.png")
    for _ in range(2):
        make(*words(layout))
        assert len(made(layout, 5)[0]) == 5


def test_unusable_files(layout: Path, make: Make) -> None:
    cv2.imwrite(str(layout / "labels/a/4.png"), np.full((3, 4), 7, np.uint8))
    line = refused(lambda: make(*words(layout)))
    assert "a/4.png: is 4 x 3 pixels (width x height) but its image is 10 x 8; give it the size of its image" in line
    Image.new("RGB", (10, 8)).save(layout / "labels/a/4.png")
    assert "has pixels of kind RGB where one class index per pixel" in refused(lambda: make(*words(layout)))
    (layout / "labels/a/4.png").unlink()
    assert "a/4.png: no such label map; add it, or take out the image" in refused(lambda: make(*words(layout)))
    content = json.loads((layout / "objects.json").read_text())
    content["annotations"][0]["segmentation"] = []
    store(layout, content, "objects.json")
    line = refused(lambda: make(*words(layout)))
    assert line.endswith("objects.json: annotation 1: has no segmentation, which masks need; correct the file")


def test_a_place_that_cannot_be_written(layout: Path, make: Make) -> None:
    line = refused(lambda: make(*words(layout, out=layout / "objects.json/train.json")))
    assert "cannot be written" in line
