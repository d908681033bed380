"""Each fault that the doctor must find, alone in a copy of the scenes: its kind, its file and the exit code."""

import shutil

import cv2
import numpy as np
import pytest

from errors import UserError
from tests.tools.check_data.breaking import LAYOUTS, Copy, found, write


@pytest.fixture
def copy(scenes, tmp_path):
    return lambda task: Copy(scenes, tmp_path / task, task)


@pytest.mark.parametrize("task", LAYOUTS)
def test_sound_data_have_no_finding(copy, task):
    report = copy(task).check()
    assert (report.code, report.findings) == (0, [])
    assert all(split.tally.read.all() for split in report.splits.values())


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_cut_image(copy, task):
    data = copy(task)
    path = data.images()[3]
    path.write_bytes(path.read_bytes()[:700])
    report = data.check()
    assert (report.code, found(report)) == (2, [("damaged file", str(path), True)])


def test_all_faults_are_named_not_only_the_first(copy):
    data = copy("seg")
    for path in data.images()[2:5]:
        path.write_bytes(b"")
    assert [item[1] for item in found(data.check())] == [str(path) for path in data.images()[2:5]]


def test_a_label_map_of_another_size(copy):
    data = copy("seg")
    write(data.labels()[2], np.ones((40, 40), np.uint8))
    report = data.check()
    assert (report.code, found(report)) == (2, [("other size", str(data.labels()[2]), True)])


def test_an_image_of_another_size_than_its_entry(copy):
    data = copy("det")
    data.edit(lambda content: content["images"][2].update(width=99))
    assert found(data.check()) == [("other size", str(data.images()[2]), True)]


def test_a_label_out_of_range(copy):
    data = copy("seg")
    values = cv2.imread(str(data.labels()[4]), cv2.IMREAD_UNCHANGED)
    values[5, 6] = 99
    write(data.labels()[4], values)
    report = data.check()
    assert (report.code, found(report)) == (2, [("value is no class", str(data.labels()[4]), True)])
    assert "value 99 at row 5, column 6" in report.findings[0].what


def test_an_entry_without_file(copy):
    data = copy("det")
    entry = {"id": 9999, "file_name": "nothing.jpg", "height": 48, "width": 64}
    path = data.edit(lambda content: content["images"].append(entry))
    report = data.check()
    assert (report.code, found(report)) == (2, [("entry without file", f"{path}: image 9999", True)])
    assert "nothing.jpg" in report.findings[0].what


def test_a_line_without_file(copy):
    data = copy("depth")
    line = (data.root / "nyu_test.txt").read_text().splitlines()[2]
    (data.root / line.split()[1]).unlink()
    report = data.check()
    assert (report.code, found(report)) == (2, [("entry without file", f"{data.root}/nyu_test.txt line 3", True)])


def test_an_image_without_label_map_and_the_other_way_round(copy):
    data = copy("seg")
    image, label = data.images()[1], data.labels()[7]
    data.labels()[1].unlink()
    data.images()[7].unlink()
    kind = "file without counterpart"
    assert found(data.check()) == [(kind, str(image), True), (kind, str(label), True)]


@pytest.mark.parametrize("task", ["det", "pan"])
def test_a_file_without_entry(copy, task):
    data = copy(task)
    write(data.root / "train2017" / "extra.jpg", np.full((48, 64, 3), 7, np.uint8))
    report = data.check()
    assert (report.code, found(report)) == (1, [("file without entry", f"{data.root}/train2017/extra.jpg", False)])


def test_a_png_without_entry(copy):
    data = copy("pan")
    path = data.root / "annotations/panoptic_val2017/extra.png"
    path.touch()
    assert found(data.check()) == [("file without entry", str(path), False)]


def test_a_folder_of_both_splits_has_no_file_without_entry(copy):
    data = copy("det")
    for path in data.images("val"):
        shutil.move(path, data.root / "train2017")
    assert data.check("data.val_images=train2017").findings == []


def test_a_label_map_in_a_subfolder_that_is_not_searched(copy):
    data = copy("seg")
    (data.root / "images/training/more").mkdir()
    path = data.root / "images/training/more/new.jpg"
    write(path, np.full((48, 64, 3), 7, np.uint8))
    assert found(data.check()) == [("file without entry", str(path), False)]


@pytest.mark.parametrize("box", [[3, 3, 0, 9], [3, 3, 9, 0.5], [500, 500, 9, 9]])
def test_a_degenerate_box_is_left_out(copy, box):
    data = copy("det")
    path = data.edit(lambda content: content["annotations"][5].update(bbox=box, id=77))
    report = data.check()
    assert (report.code, found(report)) == (1, [("degenerate box", f"{path}: annotation 77", False)])


def test_an_inverted_box_stops_training(copy):
    data = copy("inst")
    path = data.edit(lambda content: content["annotations"][5].update(bbox=[9, 9, -3, 4], id=77))
    report = data.check()
    assert (report.code, found(report)) == (2, [("degenerate box", f"{path}: annotation 77", True)])


def test_a_degenerate_box_in_validation(copy):
    data = copy("det")
    file = "annotations/instances_val2017.json"
    path = data.edit(lambda content: content["annotations"][0].update(bbox=[3, 3, 0, 9]), file)
    report = data.check()
    assert [(item.split, item.kind) for item in report.findings] == [("val", "degenerate box")]
    assert report.findings[0].file.startswith(f"{path}: annotation ")


def test_a_degenerate_box_of_a_segment(copy):
    data = copy("pan")
    things = {12, 26, 37, 45, 62, 64, 67}
    numbers = []

    def change(content):
        segment = next(s for s in content["annotations"][0]["segments_info"] if s["category_id"] in things)
        segment["bbox"] = [3, 3, 0, 9]
        numbers.append(segment["id"])

    path = data.edit(change, "annotations/panoptic_train2017.json")
    report = data.check()
    assert (report.code, found(report)) == (1, [("degenerate box", f"{path}: segment {numbers[0]}", False)])


def test_empty_classes(copy):
    data = copy("seg")
    report = data.check(
        f"data.classes=[{', '.join(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k'])}, l, m, n, o, z]"
    )
    assert report.code == 1
    assert {(item.split, item.kind) for item in report.findings} == {("train", "empty class"), ("val", "empty class")}
    assert "z" in report.findings[0].what


def test_a_class_without_an_object(copy):
    data = copy("det")
    report = data.check("data.classes.77=zebra")
    assert [(item.split, item.kind) for item in report.findings] == [("train", "empty class"), ("val", "empty class")]
    assert "zebra" in report.findings[0].what


def test_8_bit_depth(copy):
    data = copy("depth")
    path = sorted(data.root.rglob("sync_depth_*.png"))[0]
    write(path, (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 40).astype(np.uint8))
    report = data.check()
    assert (report.code, found(report)) == (2, [("8-bit depth", str(path), True)])


def test_8_bit_depth_stretched_to_16_bits(copy):
    data = copy("depth")
    for path in data.root.rglob("sync_depth_*.png"):
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 40
        write(path, (values * 257).astype(np.uint16))
    report = data.check("data.depth_scale=6000")
    assert report.code == 1
    assert {item.kind for item in report.findings} == {"8-bit depth"}


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_validation_image_that_is_a_training_image(copy, task):
    data = copy(task)
    train, val = data.images()[2], data.images("val")[3]
    shutil.copy(train, val)
    report = data.check()
    assert (report.code, found(report)) == (1, [("validation image in training", str(val), False)])
    assert str(train) in report.findings[0].what


def test_the_same_pixels_in_another_format_are_found(copy):
    data = copy("seg")
    val = data.images("val")[3]
    pixels = cv2.imread(str(data.images()[2]))
    write(val.with_suffix(".png"), pixels)
    val.unlink()
    assert [item.kind for item in data.check().findings] == ["validation image in training"]


def test_duplicate_names(copy):
    data = copy("seg")
    other = data.images()[0].with_suffix(".png")
    write(other, np.zeros((48, 64, 3), np.uint8))
    report = data.check()
    assert (report.code, found(report)) == (2, [("duplicate name", str(other), True)])


def test_two_entries_of_one_file(copy):
    data = copy("det")

    def change(content):
        content["images"][3]["file_name"] = content["images"][2]["file_name"]

    path = data.edit(change)
    report = data.check()
    number = 2 * 3 + 1
    expected = [("duplicate name", f"{path}: image {number}", False)]
    assert (report.code, found(report)) == (1, [*expected, ("file without entry", str(data.images()[3]), False)])


def test_duplicate_pictures(copy):
    data = copy("seg")
    shutil.copy(data.images()[2], data.images()[6])
    report = data.check()
    assert (report.code, found(report)) == (1, [("duplicate picture", str(data.images()[6]), False)])


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_an_image_without_a_labelled_pixel(copy, task):
    data = copy(task)
    path = data.labels()[2] if task == "seg" else sorted(data.root.rglob("sync_depth_*.png"))[2]
    write(path, np.zeros((48, 64), np.uint8 if task == "seg" else np.uint16))
    report = data.check()
    assert (report.code, found(report)) == (1, [("empty image", str(path), False)])


def test_images_that_training_leaves_out_are_counted(copy):
    """The second scene of a split has no thing."""
    report = copy("det").check()
    assert report.record()["splits"]["train"]["left_out"]["image(s) without an annotation"] == 1
    assert report.record()["splits"]["val"]["images_without_objects"] == 1


def test_a_small_image_is_left_out(copy):
    data = copy("det")

    def change(content):
        content["images"][2].update(width=20, height=20)

    data.edit(change)
    report = data.check()
    assert (report.code, found(report)) == (1, [("small image", str(data.images()[2]), False)])


def test_what_is_skipped_does_not_stop_training(copy):
    data = copy("seg")
    data.labels()[1].unlink()
    report = data.check("data.on_error=skip")
    assert (report.code, found(report)) == (1, [("file without counterpart", str(data.images()[1]), False)])


def test_a_split_that_cannot_be_opened_does_not_hide_the_other(copy):
    data = copy("det")
    (data.root / "annotations/instances_val2017.json").write_text("{")
    path = data.images()[0]
    path.write_bytes(b"")
    report = data.check()
    assert {item.kind for item in report.findings} == {"unusable data set", "damaged file"}
    assert report.code == 2


def test_no_data_at_all_are_an_error(copy, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        copy("seg").check(f"data.root={tmp_path}/nothing")
