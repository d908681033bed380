"""Each format: what is kept, what is dropped and why, and that the data are sound as training reads them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.panoptic.ids import read_ids
from errors import UserError
from experiment import load_experiment
from structures import IGNORE
from tests.tools.import_data import made
from tools.import_data.__main__ import main


@pytest.fixture
def imported(tmp_path, monkeypatch, capsys):
    """Fill a folder, import it, and give the folder and what was printed. Checked too, unless `check` is false."""

    def call(form: str, fill=None, *words: object, check: bool = False) -> tuple[Path, str]:
        source, out = tmp_path / "source", tmp_path / "out"
        if fill is not None:
            fill(source)
        before = snapshot(source)
        options = [*map(str, words), *([] if check else ["--no-check"])]
        monkeypatch.setattr("sys.argv", ["import", "--from", form, str(source), "--out", str(out), *options])
        main()
        assert snapshot(source) == before
        return out, capsys.readouterr().out

    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def targets(out: Path, split: str = "train") -> dict:
    data = load_experiment(out / "config.yaml").data.build(split)
    return {data.image_id(index): data.target(index) for index in range(len(data))}


def files(out: Path, split: str) -> list[Path]:
    data = load_experiment(out / "config.yaml").data.build(split)
    return [data.files(index)[0] for index in range(len(data))]


def annotations(out: Path, split: str = "train") -> tuple[dict, dict]:
    """Images and objects of a written COCO file, by id and by file name."""
    content = json.loads((out / f"{split}.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found: dict[str, list] = {name: [] for name in names.values()}
    for one in content["annotations"]:
        found[names[one["image_id"]]].append(one)
    return names, found


def test_cvat_segmentations_of_every_form(imported):
    out, text = imported("coco", made.cvat, "--val", 0.01)
    objects = {
        one["id"]: one for split in ("train", "val") for found in annotations(out, split)[1].values() for one in found
    }
    runs = [objects[number]["segmentation"] for number in (0, 1, 2)]
    assert runs[0] == runs[1] == runs[2]
    assert objects[3]["segmentation"] == [[4, 3, 12, 3, 12, 11]]
    assert objects[4]["segmentation"] == [made.square(4, 3, 8)]
    assert 5 not in objects
    assert "dropped 1: object without outline" in text
    assert "dropped 1: annotated image: no such image on disk (gone.jpg)" in text
    assert "dropped 1: annotation of an image that is not listed" in text
    assert {one["iscrowd"] for one in objects.values()} == {0}
    assert "photo_2.jpg" in {**annotations(out)[1], **annotations(out, "val")[1]}


def test_roboflow_splits_are_kept(imported):
    out, text = imported("coco", made.roboflow)
    assert (len(annotations(out)[0]), len(annotations(out, "val")[0])) == (4, 2)
    assert "dropped 1: image of the split test" in text
    assert load_experiment(out / "config.yaml").data.classes == {1: "screw", 2: "nut"}


def test_yolo_lines_are_fractions_of_the_image(imported):
    out, text = imported("yolo", made.yolo)
    found = annotations(out)[1]
    boxes = found["train_0.jpg"]
    assert boxes[0]["bbox"] == pytest.approx([0.2 * 48, 0.25 * 32, 0.2 * 48, 0.3 * 32])
    assert boxes[1]["bbox"] == pytest.approx([0.91 * 48, 0.4 * 32, 0.09 * 48, 0.2 * 32])  # cut off at the edge
    assert [len(found[f"train_{number}.jpg"]) for number in range(5)] == [2, 2, 2, 2, 0]
    for line in (
        "dropped 1: line that repeats another one (train/labels/train_2.txt line 2)",
        "dropped 1: line: its numbers are not fractions of the image (train/labels/train_2.txt line 3)",
        "dropped 1: object of class 7, but there are 2 names",
        "dropped 1: line that is not a class and numbers (train/labels/train_2.txt line 5)",
        "dropped 1: label file without image (train/labels/lost.txt)",
        "note: images without label file, taken as background: 1 (train/images/train_4.JPG)",
        "note: 1 of 12 objects have an outline: imported as boxes",
    ):
        assert line in text
    assert load_experiment(out / "config.yaml").data.train_empty_images


def test_yolo_polygons_become_masks(imported):
    out, _ = imported("yolo", lambda root: made.yolo(root, polygons=True))
    assert load_experiment(out / "config.yaml").data.masks
    (first, *_) = annotations(out)[1]["train_0.jpg"]
    assert first["segmentation"][0] == pytest.approx([9.6, 6.4, 24, 6.4, 24, 19.2])


@pytest.mark.parametrize("where", ["classes.txt", "obj.names"])
def test_yolo_without_yaml_takes_the_names_of_a_text_file(imported, tmp_path, where):
    for number in range(3):
        made.picture(tmp_path / f"source/images/{number}.jpg", number)
        made.text(tmp_path / f"source/labels/{number}.txt", "1 0.5 0.5 0.2 0.2\n")
    made.text(tmp_path / "source" / where, "screw\nnut\n", bom=True, crlf=True)
    out, _ = imported("yolo")
    assert load_experiment(out / "config.yaml").data.classes == {1: "screw", 2: "nut"}
    assert (len(annotations(out)[0]), len(annotations(out, "val")[0])) == (2, 1)


def test_voc_boxes_begin_at_one_and_difficult_ones_are_crowds(imported):
    out, text = imported("voc", made.voc)
    first = annotations(out)[1]["2007_0.jpg"]
    assert [one["bbox"] for one in first] == [[0, 0, 10, 10], [38, 22, 10, 10]]
    assert [one["iscrowd"] for one in first] == [0, 1]
    assert sorted(annotations(out)[1]) == ["2007_0.jpg", "2007_1.jpg", "2007_2.jpg"]
    assert sorted(annotations(out, "val")[1]) == ["2007_3.jpg"]
    assert "dropped 1: image in no list of ImageSets" in text


def test_voc_boxes_with_a_zero_begin_at_zero(imported, tmp_path):
    made.voc(tmp_path / "source")
    path = tmp_path / "source/Annotations/2007_1.xml"
    path.write_bytes(path.read_bytes().replace(b"<xmin>1<", b"<xmin>0<", 1))
    out, _ = imported("voc")
    assert annotations(out)[1]["2007_0.jpg"][0]["bbox"] == [1, 1, 9, 9]


def test_voc_label_maps_are_read_in_place(imported):
    out, text = imported("voc", made.voc_maps)
    assert "files: none: they are read where they lie" in text
    semantic = targets(out)["0"].semantic
    assert semantic.unique().tolist() == [IGNORE, 0, 12]
    assert list(targets(out, "val")) == ["3"]
    assert "dropped 1: image without label file (JPEGImages/4.jpg)" in text


def test_labelme_shapes(imported):
    out, text = imported("labelme", made.labelme, "--seed", 2)
    found = {**annotations(out)[1], **annotations(out, "val")[1]}
    group, rectangle, circle, mask = found["0.jpg"]
    assert (group["bbox"], len(group["segmentation"])) == ([2, 2, 24, 10], 2)
    assert (rectangle["bbox"], rectangle["area"]) == ([14, 12, 6, 8], 48)
    assert rectangle["segmentation"] == [[14, 12, 20, 12, 20, 20, 14, 20]]
    assert circle["bbox"] == pytest.approx([26, 16, 8, 8], abs=0.05)
    assert circle["area"] == pytest.approx(np.pi * 16, rel=0.1)
    assert (mask["bbox"], mask["area"]) == ([1, 20, 5, 6], 30)
    assert (out / "images/3.jpg").read_bytes()[:2] == b"\xff\xd8"  # from inside its JSON file
    for kind in ("linestrip", "point"):
        assert f"dropped 4: shape {kind} without area" in text
    assert "note: rectangles became masks: 4 (screw in shots/0.jpg" in text


def test_rectangles_stay_boxes_unless_masks_are_wanted(imported, tmp_path):
    """A group of two rectangles: one box around both, or a mask of two parts."""
    corners = ([[2, 2], [12, 12]], [[20, 2], [30, 12]])
    shapes = [{"label": "nut", "points": pair, "shape_type": "rectangle", "group_id": 1} for pair in corners]
    for number in range(2):
        made.picture(tmp_path / f"source/{number}.jpg", number)
        made.text(tmp_path / f"source/{number}.json", json.dumps({"shapes": shapes, "imagePath": f"{number}.jpg"}))
    out, text = imported("labelme")
    ((box,),) = annotations(out)[1].values()
    assert (box["bbox"], box["area"], "segmentation" in box) == ([2, 2, 28, 10], 280, False)
    assert "rectangles became masks" not in text
    shutil.rmtree(out)
    out, text = imported("labelme", None, "--task", "inst")
    ((mask,),) = annotations(out)[1].values()
    assert (mask["area"], len(mask["segmentation"])) == (200, 2)
    assert "note: rectangles became masks: 2 (nut in 0.jpg, nut in 1.jpg)" in text


def test_labels_of_a_stored_image_are_turned_with_it(imported, tmp_path):
    """A photo that is displayed upright, once labelled as displayed and once as stored: the same box."""
    box = {
        "as displayed": ([4, 6, 10, 20], made.HEIGHT, made.WIDTH),
        "as stored": ([6, 18, 20, 10], made.WIDTH, made.HEIGHT),
    }
    images, entries = [], []
    for number, (bbox, width, height) in enumerate(box.values()):
        made.picture(tmp_path / f"source/{number}.jpg", number, orientation=made.CW)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
        x, y, w, h = bbox
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        entries.append({"id": number, "image_id": number, "category_id": 1, "bbox": bbox, "segmentation": outline})
    content = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "nut"}]}
    made.text(tmp_path / "source/all.json", json.dumps(content))
    out, text = imported("coco")
    found = {**annotations(out)[1], **annotations(out, "val")[1]}
    assert found["0.jpg"][0]["bbox"] == found["1.jpg"][0]["bbox"] == [4, 6, 10, 20]
    assert found["0.jpg"][0]["area"] == found["1.jpg"][0]["area"]
    assert "whose labels belonged to the stored form and were turned: 1 (1.jpg)" in text


def test_label_studio_areas(imported):
    out, text = imported("labelstudio", made.label_studio)
    found = {**annotations(out)[1], **annotations(out, "val")[1]}
    assert sorted(found) == [*(f"f00dcafe-photo {n}.png" for n in (0, 1, 3)), "other.png"]
    brush, polygon, ellipse, rectangle = found["f00dcafe-photo 0.png"]
    assert (brush["bbox"], brush["area"]) == ([30, 20, 15, 10], 150)
    assert polygon["segmentation"] == [pytest.approx([4.8, 3.2, 14.4, 3.2, 14.4, 16])]
    # Turned by 90 degrees the radii, 10 % of the width and 20 % of the height, change places.
    assert ellipse["bbox"] == pytest.approx([24 - 6.4, 16 - 4.8, 12.8, 9.6], abs=0.1)
    assert rectangle["segmentation"] == [pytest.approx([24, 16, 36, 16, 36, 24, 24, 24])]
    assert "note: rectangles became masks: 4" in text
    assert "dropped 4: annotation that was cancelled" in text
    assert "dropped 4: result: has no area" in text


def edited(root: Path, edit, split: str = "train") -> None:
    """Change the content of a panoptic file."""
    path = root / f"annotations/panoptic_{split}.json"
    content = json.loads(path.read_text("utf-8-sig"))
    edit(content)
    path.write_text(json.dumps(content))


def test_panoptic_segments_of_every_form(imported):
    out, text = imported("coco", made.panoptic)
    config = load_experiment(out / "config.yaml").data
    assert config.info.task == "panoptic"
    assert {number: str(one) for number, one in config.classes.items()} == {3: "nut (a thing)", 4: "bench (stuff)"}
    assert "files: 11 hard links" in text  # 7 images and 4 PNGs; the others are written anew
    found = targets(out, "val")
    upright = found["2"].panoptic.ids.rot90(1)
    for number, ids in (("0", found["0"].panoptic.ids), ("1", found["1"].panoptic.ids), ("2", upright)):
        assert ids[[0, 5, 5, -1], [0, 6, 26, 0]].tolist() == [70_000 + int(number), 300, 2, 0]
        assert found[number].panoptic.labels == {70_000 + int(number): 1, 300: 0, 2: 0}
        assert found[number].panoptic.crowd == {70_000 + int(number): False, 300: False, 2: number == "0"}
    learnt = load_experiment(out / "config.yaml").data.build("train").load(2)
    assert learnt.objects.boxes.tolist() == [[5, 4, 17, 14], [25, 4, 37, 14]]
    assert "note: images turned by EXIF; PNGs of the stored size are turned with them: 1 (images/val_2.jpg)" in text


def test_panoptic_files_that_do_not_fit_are_named(imported, tmp_path):
    source = tmp_path / "source"
    made.panoptic(source)

    def edit(content: dict) -> None:
        first, second, third, fourth = content["annotations"]
        first["segments_info"][0]["iscrowd"] = 1
        del second["segments_info"][1]  # 300 stays in the PNG
        third["segments_info"] += [{"id": 9, "category_id": 3}, {"id": 9, "category_id": 3}]
        third["segments_info"][1]["category_id"] = 77
        fourth["image_id"] = 55

    edited(source, edit)
    (source / "annotations/panoptic_val/val_1.png").unlink()
    out, text = imported("coco", None, "--task", "pan", check=True)
    for line in (
        "note: segments of stuff that are marked as crowds, which only things can be: 1 (segment 70000 of",
        "note: images in which segments that are not listed became void: 2 (images/train_1.png, images/train_2.jpg)",
        "dropped 1: segments without an id, or with one that appears twice (images/train_2.jpg)",
        "dropped 1: segment that is not in its PNG (segment 9 of images/train_2.jpg)",
        "dropped 1: segment of a category that is not listed (segment 300 of images/train_2.jpg)",
        "dropped 1: image without annotation (train_3.jpg)",
        "dropped 1: annotation of an image that is not listed (image 55 of annotations/panoptic_train.json)",
        "dropped 1: image whose PNG of segments is not on disk (val_1.png of images/val_1.png)",
        "sound: nothing was found",
    ):
        assert line in text
    ids = load_experiment(out / "config.yaml").data.build("train").load(1).semantic
    assert ids[5, [0, 6, 26]].tolist() == [1, IGNORE, 0]


def test_a_folder_with_both_kinds_of_file_is_imported_by_task(imported, tmp_path):
    made.panoptic(tmp_path / "source")
    made.text(tmp_path / "source/annotations/instances_train.json", json.dumps(made.coco(tmp_path / "source")))
    out, text = imported("coco", None, "--task", "pan")
    assert "dropped 1: JSON file without segments_info (annotations/instances_train.json)" in text
    shutil.rmtree(out)
    out, text = imported("coco", None)
    assert load_experiment(out / "config.yaml").data.info.task == "instance"
    assert "dropped 2: panoptic JSON file (--task pan imports it) (annotations/panoptic_train.json" in text


def test_things_may_be_named(imported, tmp_path):
    """Datumaro writes isthing 0 for all (1.13.12, plugins/data_formats/coco/exporter.py)."""
    made.panoptic(tmp_path / "source")

    def edit(content: dict) -> None:
        for one in content["categories"]:
            one["isthing"] = 0
        content["annotations"][0]["segments_info"][2]["iscrowd"] = 0

    for split in ("train", "val"):
        edited(tmp_path / "source", edit, split)
    out, text = imported("coco", None)
    assert "note: no category is a thing (isthing 1); if some are, name them with --things a,b" in text
    shutil.rmtree(out)
    out, text = imported("coco", None, "--things", "nut")
    assert load_experiment(out / "config.yaml").data.info.things == (True, False)
    with pytest.raises(UserError, match="--things not: is not a category; name some of nut, bench"):
        imported("coco", None, "--things", "not", "--out", tmp_path / "other")


@pytest.mark.parametrize(("form", "fill"), [("labelme", made.labelme), ("labelstudio", made.label_studio)])
def test_outlines_become_segments(imported, form, fill):
    with pytest.raises(UserError, match="name the things: --things a,b of the classes nut, screw"):
        imported(form, fill, "--task", "pan")
    out, text = imported(form, None, "--task", "pan", "--things", "screw", check=True)
    assert "note: segments are drawn from outlines: larger ones first" in text
    assert "sound: nothing was found" in text
    data = load_experiment(out / "config.yaml").data
    assert data.info.things == (False, True)
    record = json.loads((out / "panoptic_train.json").read_text())
    stuff = [one for one in record["categories"] if not one["isthing"]]
    for annotation in record["annotations"]:
        ids = read_ids(out / "panoptic_train" / annotation["file_name"])
        segments = annotation["segments_info"]
        areas = {value: int((ids == value).sum()) for value in np.unique(ids) if value}
        assert areas == {one["id"]: one["area"] for one in segments}
        assert sum(one["category_id"] == stuff[0]["id"] for one in segments) == 1  # stuff is one segment


def test_a_smaller_outline_lies_on_a_larger_one(imported, tmp_path):
    picture = made.picture(tmp_path / "source/a.png", 0)
    squares = [("small", 10, 8), ("large", 4, 20), ("hidden", 12, 4), ("small", 12, 4)]
    shapes = [
        {"label": name, "shape_type": "polygon", "points": [[x, x], [x + side, x], [x + side, x + side], [x, x + side]]}
        for name, x, side in squares
    ]
    content = {"shapes": shapes, "imagePath": picture.name, "imageHeight": made.HEIGHT, "imageWidth": made.WIDTH}
    made.text(tmp_path / "source/a.json", json.dumps(content))
    shutil.copy(picture, tmp_path / "source/b.png")
    made.text(tmp_path / "source/b.json", json.dumps({**content, "imagePath": "b.png"}))
    out, text = imported("labelme", None, "--task", "pan", "--things", "small,hidden")
    assert "dropped 2: object that others cover (hidden in " in text
    (annotation,) = json.loads((out / "panoptic_val.json").read_text())["annotations"]
    names = {one["id"]: one["name"] for one in json.loads((out / "panoptic_val.json").read_text())["categories"]}
    areas = sorted((names[one["category_id"]], one["area"]) for one in annotation["segments_info"])
    assert areas == [("large", 400 - 64), ("small", 16), ("small", 64 - 16)]


def test_pngs_of_one_name_need_the_name_of_their_folder(imported, tmp_path):
    made.panoptic(tmp_path / "source")
    source = tmp_path / "source"
    for split in ("train", "val"):
        (source / f"annotations/panoptic_{split}").rename(source / f"annotations/x_{split}")
        shutil.copytree(source / f"annotations/x_{split}", source / f"annotations/y_{split}")
    with pytest.raises(UserError, match=r"its PNGs may lie in .*y_train or .*x_train; name their folder with --labels"):
        imported("coco")
    (source / "annotations/y_train").rename(source / "train")
    (source / "annotations/y_val").rename(source / "val")
    for split in ("train", "val"):
        shutil.move(source / split, source / f"pngs/{split}")
    out, _ = imported("coco", None, "--labels", "pngs")
    assert os.path.samefile(out / "panoptic_train/train_0.png", source / "pngs/train/train_0.png")


def test_cityscapes_is_read_in_place_with_its_table(imported):
    out, text = imported("cityscapes", made.cityscapes)
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "import.txt", "train.txt", "val.txt"]
    assert sorted(targets(out, "val")) == ["lindau_0", "lindau_1"]
    assert targets(out)["aachen_aachen_0"].semantic.unique().tolist() == [IGNORE, 0, 10]
    assert "5 training and 2 validation images" in text


def test_black_and_white_masks_are_two_classes(imported):
    out, _ = imported("masks", made.masks)
    assert load_experiment(out / "config.yaml").data.info.classes == ("background", "foreground")
    assert len(targets(out)) == 4


def test_masks_of_colours_become_indices(imported, tmp_path):
    table = made.text(
        tmp_path / "classes.csv", "name,r,g,b\nsky,0,0,255\nroad,128,64,128\nvoid,0,0,0\n", bom=True, crlf=True
    )
    values = ((0, 0, 255), (128, 64, 128), (0, 0, 0))
    out, _ = imported("masks", lambda root: made.masks(root, values), "--classes", table)
    semantic = next(iter(targets(out).values())).semantic
    assert (semantic[3, 0], semantic[10, 10], semantic[0, 0]) == (0, 1, IGNORE)
    assert Image.open(next((out / "annotations/train").iterdir())).mode == "P"


def test_a_label_map_of_cvat_names_the_colours(imported, tmp_path):
    made.text(tmp_path / "source/labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,255::\nroad:128,64,128::\n")
    out, _ = imported("masks", lambda root: made.masks(root, ((0, 0, 255), (128, 64, 128))))
    assert load_experiment(out / "config.yaml").data.info.classes == ("sky", "road")


def test_equal_names_in_subfolders_stay_apart(imported, tmp_path):
    made.masks(tmp_path / "source", subfolder="monday")
    made.masks(tmp_path / "source", subfolder="tuesday")
    out, _ = imported("masks", None, "--group-by", "folder", "--val", 0.5)
    assert len(targets(out)) == len(targets(out, "val")) == 5
    folders = [{path.parent.name for path in files(out, split)} for split in ("train", "val")]
    assert sorted(map(sorted, folders)) == [["monday"], ["tuesday"]]


def test_outlines_are_drawn_as_label_maps(imported):
    out, _ = imported("labelme", made.labelme, "--task", "seg")
    maps = {**targets(out), **targets(out, "val")}
    assert load_experiment(out / "config.yaml").data.info.classes == ("background", "nut", "screw")
    assert maps["0"].semantic[5, 5] == 1
    assert maps["0"].semantic[20, 30] == 2
    assert maps["0"].semantic[30, 47] == 0


@pytest.mark.parametrize("kind", ["npy", "tiff", "png", "exr"])
def test_depth_arrives_in_metres(imported, kind):
    if kind == "exr":
        pytest.importorskip("OpenEXR")
    scale = ["--depth-scale", "256"] if kind == "png" else []
    out, _ = imported("depth", lambda root: made.depth(root, kind), *scale)
    depth = next(iter(targets(out).values())).depth
    expected = torch.linspace(1, 5, made.WIDTH)
    assert torch.allclose(depth[3], expected, atol=0.004)
    assert depth[0, 0] == 0
    assert load_experiment(out / "config.yaml").data.max_depth == 5


def test_images_are_hard_links_or_copies(imported, tmp_path):
    out, text = imported("yolo", made.yolo)
    assert os.path.samefile(out / "images/train_0.jpg", tmp_path / "source/train/images/train_0.JPG")
    assert "files: 7 hard links" in text


def test_without_hard_links_there_are_symbolic_ones(imported, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "not permitted")))
    out, text = imported("yolo", made.yolo)
    assert (out / "images/train_0.jpg").is_symlink()
    assert "files: 7 symbolic links" in text


def test_the_end_is_the_doctor(imported):
    _, text = imported("voc", made.voc, check=True)
    assert "sound: nothing was found" in text
    assert text.rstrip().endswith("(first with --check)")


@pytest.mark.parametrize(
    ("form", "words", "what"),
    [
        ("coco", [], "has no JSON file with images"),
        ("yolo", ["--task", "pan"], "--task pan: outlines do not tell things from stuff; name the things"),
        ("masks", ["--task", "pan"], "--task pan: is not for --from masks; import masks and label maps"),
        ("yolo", ["--things", "nut"], "--things: only panoptic data have things and stuff"),
        ("labelme", [], "no object was found"),
        ("masks", ["--labels", "no"], "no such folder"),
        ("yolo", ["--val", "2"], "is not a share between 0 and 1"),
        ("yolo", ["--group-by", "("], "is not a regular expression"),
        ("yolo", ["--classes", "no/names.txt"], "no such file"),
        ("depth", ["--depth-scale", "0"], "is not above 0"),
        ("voc", [], "has no XML file"),
    ],
)
def test_wrong_input_is_one_line(imported, form, words, what):
    with pytest.raises(UserError, match=what) as error:
        imported(form, made.yolo, *words)
    assert "\n" not in str(error.value)


def test_the_new_folder_must_be_empty_and_outside(imported, tmp_path, monkeypatch):
    made.yolo(tmp_path / "source")
    made.text(tmp_path / "out/a", "")
    with pytest.raises(UserError, match="is not an empty folder; choose a new --out"):
        imported("yolo")
    monkeypatch.setattr(
        "sys.argv", ["x", "--from", "yolo", str(tmp_path / "source"), "--out", str(tmp_path / "source/out")]
    )
    with pytest.raises(UserError, match="lies in the source, which must not change"):
        main()
