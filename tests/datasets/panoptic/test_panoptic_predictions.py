import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from PIL import Image

from datasets.panoptic.ids import encode_ids, read_ids, unique_ids
from datasets.panoptic.predictions import PanopticFiles
from errors import UserError
from structures import Panoptic, Prediction, Target
from tests.datasets.coco.coco_layout import refused
from tests.datasets.panoptic.panoptic_layout import VAL, assert_same, config, scene_config, store_png, write_layout

CATEGORIES = (2, 3, 7, 200)
SIZE = (4, 6)
IDS = np.repeat([[0, 1, 300, 300, 70000, 1]], 4, axis=0)
LABELS = {1: 3, 300: 0, 70000: 3}


def prediction(ids: np.ndarray = IDS, labels: dict[int, int] | None = None) -> Prediction:
    return Prediction(panoptic=Panoptic(torch.from_numpy(ids.astype(np.int32)), LABELS if labels is None else labels))


def write(path: Path, image_ids: list[str], ids: np.ndarray = IDS) -> None:
    files = PanopticFiles(path, CATEGORIES)
    for image_id in image_ids:
        files.write(prediction(ids), Target(image_id, SIZE))
    files.finish()


def stored(path: Path) -> list[Any]:
    return json.loads((path / "predictions.json").read_text())["annotations"]


# --- ids in PNGs -----------------------------------------------------------------------------------------------------


def test_ids_are_red_plus_256_green_plus_65536_blue(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2))
    picture.putdata([(1, 0, 0), (0, 1, 0), (0, 0, 1), (255, 255, 255), (3, 2, 1), (0, 0, 0)])
    picture.save(tmp_path / "a.png")
    ids = read_ids(tmp_path / "a.png")
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 256, 65536], [16777215, 66051, 0]]
    (tmp_path / "b.png").write_bytes(encode_ids(ids))
    with Image.open(tmp_path / "b.png") as again:
        assert again.mode == "RGB"
        assert np.array_equal(again, picture)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.uint32])
def test_ids_survive_a_png(tmp_path: Path, dtype: type) -> None:
    ids = np.random.default_rng(0).integers(0, min(2**24, np.iinfo(dtype).max + 1), (17, 5)).astype(dtype)
    (tmp_path / "a.png").write_bytes(encode_ids(ids))
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)


@pytest.mark.parametrize("number", [-1, 2**24])
def test_ids_that_do_not_fit_are_not_written(number: int) -> None:
    with pytest.raises(ValueError, match="do not fit into 0 to 16777215"):
        encode_ids(np.array([[1, number]]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (30, 40)])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_unique_ids_are_those_of_numpy(shape: tuple[int, int], count: int) -> None:
    ids = np.random.default_rng(count).choice(np.arange(0, 2**24, 70001, dtype=np.int32)[:count], shape)
    values, places = unique_ids(ids)
    expected, inverse = np.unique(ids, return_inverse=True)
    assert np.array_equal(values, expected)
    assert np.array_equal(places, inverse.reshape(shape))


# --- writing ---------------------------------------------------------------------------------------------------------


def test_files_have_the_form_that_coco_asks_for(tmp_path: Path) -> None:
    write(tmp_path, ["b", "000000000139", "20"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions", "predictions.json"]
    segments = [
        {"id": 1, "category_id": 200, "area": 8},
        {"id": 300, "category_id": 2, "area": 8},
        {"id": 70000, "category_id": 200, "area": 4},
    ]
    assert stored(tmp_path) == [
        {"image_id": 20, "file_name": "000000000020.png", "segments_info": segments},
        {"image_id": 139, "file_name": "000000000139.png", "segments_info": segments},
        {"image_id": "b", "file_name": "b.png", "segments_info": segments},
    ]
    blue, green, red = cv2.split(cv2.imread(str(tmp_path / "predictions/b.png")).astype(int))
    assert np.array_equal(red + 256 * green + 65536 * blue, IDS)


def test_labels_without_pixels_are_no_segments(tmp_path: Path) -> None:
    files = PanopticFiles(tmp_path, CATEGORIES)
    files.write(prediction(np.zeros(SIZE), {5: 1}), Target("1", SIZE))
    files.finish()
    assert stored(tmp_path)[0]["segments_info"] == []
    assert_same(files.read(Target("1", SIZE)), Panoptic(torch.zeros(SIZE), {}))


def test_a_file_of_another_name_has_its_pngs_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "new/a.b.json", ["7"])
    assert (tmp_path / "new/a.b/000000000007.png").exists()
    found = PanopticFiles(tmp_path / "new/a.b.json", CATEGORIES).read(Target("7", SIZE))
    assert_same(found, prediction().panoptic)


def test_nothing_predicted_makes_an_empty_list(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert stored(tmp_path) == []


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    assert "two images have the id 1; rename one" in refused(lambda: write(tmp_path, ["1", "01"]))


def test_an_unfinished_evaluation_leaves_nothing_to_score(tmp_path: Path) -> None:
    """Its PNGs would stand beside the older JSON, and scoring the two would give a number that means nothing."""
    write(tmp_path, ["1", "2"])
    PanopticFiles(tmp_path, CATEGORIES).write(prediction(), Target("1", SIZE))
    line = refused(lambda: PanopticFiles(tmp_path, CATEGORIES).read(Target("2", SIZE)))
    assert "predictions.json: no such file" in line
    write(tmp_path, ["1"])
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize("taken", ["predictions", "predictions.json"])
def test_folders_that_do_not_take_the_files(tmp_path: Path, taken: str) -> None:
    if taken == "predictions":
        (tmp_path / taken).touch()
    else:
        (tmp_path / taken).mkdir()
    assert "cannot be written" in refused(lambda: write(tmp_path, ["1"]))


def write_in_process(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=process, world_size=2)
    write(Path(folder, "together"), [str(number) for number in range(process, 5, 2)])
    assert len(stored(Path(folder, "together"))) == 5
    dist.destroy_process_group()


def test_two_processes_write_the_same_files_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(write_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    write(tmp_path / "alone", [str(number) for number in range(5)])
    alone, together = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "alone", tmp_path / "together")
    )
    assert len(alone) == 6
    assert alone == together


# --- reading ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(scenes: Path, tmp_path: Path) -> None:
    given = scene_config(scenes)
    dataset = given.build("val", annotations_only=True)
    files = given.prediction_files(tmp_path)
    for index in range(len(dataset)):
        target = dataset.target(index)
        files.write(Prediction(panoptic=target.panoptic), target)
    files.finish()
    for path in (tmp_path, tmp_path / "predictions.json", scenes / "coco/annotations/panoptic_val2017.json"):
        again = given.prediction_files(path)
        for index in range(len(dataset)):
            target = dataset.target(index)
            assert_same(again.read(target), target.panoptic)
        assert again.unread() == []


def test_images_that_were_not_asked_for_are_named(tmp_path: Path) -> None:
    write(tmp_path, ["10", "9", "x"])
    files = PanopticFiles(tmp_path, CATEGORIES)
    files.read(Target("9", SIZE))
    assert files.unread() == ["10", "x"]


def test_annotations_of_a_data_set_can_be_scored(tmp_path: Path) -> None:
    given = config(write_layout(tmp_path))
    dataset, files = given.build("val"), given.prediction_files(tmp_path / VAL)
    for index in range(len(dataset)):
        target = dataset.target(index)
        assert_same(files.read(target), target.panoptic)


def spoilt(path: Path, change: Callable[[Any], object]) -> str:
    """Predictions of images 7 and 8, of which the former is spoilt: the error."""
    write(path, ["7", "8"])
    content = json.loads((path / "predictions.json").read_text())
    change(content)
    (path / "predictions.json").write_text(json.dumps(content))
    return refused(lambda: PanopticFiles(path, CATEGORIES).read(Target("7", SIZE)))


def of_segment(**values: Any) -> Callable[[Any], object]:
    return lambda content: content["annotations"][0]["segments_info"][1].update(values)


def of_image(**values: Any) -> Callable[[Any], object]:
    return lambda content: content["annotations"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("annotations"), "predictions.json: has no list of annotations; write COCO's"),
        (lambda content: content.update(annotations={}), "predictions.json: has no list of annotations"),
        (lambda content: content["annotations"].append(3), "predictions.json: annotations[2]: has no image_id"),
        (of_image(image_id=None), "annotations[0]: has no image_id"),
        (of_image(image_id=True), "annotations[0]: has no image_id"),
        (of_image(image_id=8), "image 8: appears twice"),
        (of_image(image_id="08"), "image 8: appears twice"),
        (of_image(image_id=6), "has no record of image 7; predict that image too"),
        (of_image(file_name=3), "image 7: file_name 3 is not a file name"),
        (of_image(file_name="../a.png"), "image 7: file_name ../a.png leads out of the PNGs' folder"),
        (of_image(file_name="a.png"), "predictions/a.png: no such file; predict image 7, or put the PNGs into"),
        (of_image(file_name="a" * 3000), "this file cannot be read (File name too long); predict image 7"),
        (of_image(segments_info=None), "image 7: has no list segments_info"),
        (of_image(segments_info=[[]]), "image 7: segments_info[0] has no id from 1 to 16777215"),
        (of_segment(id=0), "image 7: segments_info[1] has no id from 1 to 16777215"),
        (of_segment(id=2**24), "image 7: segments_info[1] has no id from 1 to 16777215"),
        (of_segment(id="x"), "image 7: segments_info[1] has no id from 1 to 16777215"),
        (of_segment(id=1), "image 7: segment 1 appears twice"),
        (of_segment(category_id=4), "image 7: segment 300: category_id 4 is not one of the categories"),
        (of_segment(category_id=None), "image 7: segment 300: category_id None is not one of the categories"),
        (of_segment(category_id=2.5), "image 7: segment 300: category_id 2.5 is not one of the categories"),
        (of_segment(id=5), "000000000007.png: segment 300 is in the PNG but not in the segments_info of image 7 of"),
        (
            lambda content: content["annotations"][0]["segments_info"].append({"id": 5, "category_id": 2}),
            "000000000007.png: segment 5 is in the segments_info of image 7 of",
        ),
    ],
)
def test_malformed_results_are_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    assert message in spoilt(tmp_path, change)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is not JSON"), ("[]", "has no list of annotations"), ("{", "is not JSON, or incomplete")],
)
def test_files_that_are_no_results(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "predictions.json").write_text(text)
    assert message in refused(lambda: PanopticFiles(tmp_path, CATEGORIES).read(Target("7", SIZE)))


def test_pngs_of_another_kind_or_size(tmp_path: Path) -> None:
    write(tmp_path, ["7"])
    png, files = tmp_path / "predictions/000000000007.png", PanopticFiles(tmp_path, CATEGORIES)
    cv2.imwrite(str(png), np.zeros(SIZE, np.uint8))
    line = refused(lambda: files.read(Target("7", SIZE)))
    assert f"{png}: has pixels of kind L where R + 256 G + 65536 B is expected" in line
    store_png(png, IDS.T)
    line = refused(lambda: files.read(Target("7", SIZE)))
    assert f"{png}: is 4 x 6 pixels (width x height) but image 7 of {tmp_path / 'predictions.json'} is 6 x 4" in line
    png.unlink()
    with pytest.raises(UserError, match="no such file"):
        files.read(Target("7", SIZE))
