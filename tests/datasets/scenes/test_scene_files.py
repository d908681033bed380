"""The written files, read back with the official tools and compared with the renderings and with each other."""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from datasets.scenes import SCENE_CLASSES, THING_CLASSES, write_scenes
from datasets.scenes.classes import CLASSES
from datasets.scenes.labels import coco_segmentation, run_lengths
from datasets.scenes.render import Rendering
from datasets.scenes.write import Settings, render_scene
from errors import run_command
from tools.make_scenes import main

SMALL = Settings(train=12, val=3, size=(60, 80), seed=3)
SPLITS = [("train", SMALL.train), ("val", SMALL.val)]
PICTURES = [(split, index) for split, count in SPLITS for index in range(count)]


def write(root: Path, settings: Settings = SMALL, workers: int = 1) -> Path:
    write_scenes(root, settings.train, settings.val, settings.size, settings.seed, workers)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("scenes") / "root", workers=2)


@pytest.fixture(scope="module", params=["train", "val"])
def coco(root, request) -> COCO:
    return COCO(root / f"coco/annotations/instances_{request.param}2017.json")


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@cache
def rendering_of(split: str, index: int) -> Rendering:
    return render_scene(SMALL, split, index)[1]


def coco_name(split: str, index: int) -> str:
    return f"{2 * index + (1 if split == 'train' else 2):012d}"


def label_map(root: Path, split: str, index: int) -> np.ndarray:
    folder = {"train": "training", "val": "validation"}[split]
    return read(root / f"ADEChallengeData2016/annotations/{folder}/ADE_{split}_{index + 1:08d}.png")


def panoptic(root: Path, split: str) -> dict:
    return json.loads((root / f"coco/annotations/panoptic_{split}2017.json").read_text())


def segment_ids(root: Path, split: str, index: int) -> np.ndarray:
    rgb = read(root / f"coco/annotations/panoptic_{split}2017/{coco_name(split, index)}.png").astype(np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def nyu_lines(root: Path, split: str) -> list[list[str]]:
    name = {"train": "nyu_train.txt", "val": "nyu_test.txt"}[split]
    return [line.split(" ") for line in (root / "nyu" / name).read_text().split("\n")]


def test_bytes_do_not_depend_on_the_workers(root, tmp_path):
    assert contents(write(tmp_path / "one")) == contents(root)


def test_another_seed_gives_other_pictures(root, tmp_path):
    other = contents(write(tmp_path / "other", Settings(2, 1, SMALL.size, seed=4)))
    same = [name for name, data in contents(root).items() if other.get(name) == data]
    assert same == []


def test_more_scenes_keep_the_first_ones(root, tmp_path):
    fewer, more = contents(write(tmp_path / "fewer", Settings(2, 1, SMALL.size, SMALL.seed))), contents(root)
    lists = {"scenes.json", "objectInfo150.txt"}
    for name, data in fewer.items():
        assert name.endswith((".json", ".txt")) or more[name] == data
    assert lists <= {Path(name).name for name in fewer}


@pytest.mark.parametrize(("split", "index"), PICTURES)
def test_all_label_files_agree_pixel_by_pixel(root, split, index):
    label, ids = label_map(root, split, index), segment_ids(root, split, index)
    pixels = read(root / f"coco/stuffthingmaps/{split}2017/{coco_name(split, index)}.png")
    rendering = rendering_of(split, index)
    assert np.array_equal(label, rendering.label)
    expected = np.array([255] + [entry.category_id - 1 for entry in CLASSES])
    assert np.array_equal(pixels, expected[label])
    assert np.array_equal(ids == 0, label == 0)
    for instance in np.unique(rendering.instance[rendering.instance > 0]):
        inside = np.unique(ids[rendering.instance == instance])
        assert inside.size == 1
        assert np.array_equal(ids == inside[0], rendering.instance == instance)


@pytest.mark.parametrize("split", ["train", "val"])
def test_panoptic_maps_hold_what_segments_info_says(root, split):
    data = panoptic(root, split)
    names = {category["id"]: category for category in data["categories"]}
    assert [c["id"] for c in data["categories"]] == sorted(names)
    for index, entry in enumerate(data["annotations"]):
        ids, label = segment_ids(root, split, index), label_map(root, split, index)
        assert entry["file_name"] == f"{coco_name(split, index)}.png"
        assert {s["id"] for s in entry["segments_info"]} == set(np.unique(ids)) - {0}
        stuff = [s["category_id"] for s in entry["segments_info"] if not names[s["category_id"]]["isthing"]]
        assert len(stuff) == len(set(stuff))
        for segment in entry["segments_info"]:
            mask = ids == segment["id"]
            assert mask.sum() == segment["area"]
            assert list(cv2.boundingRect(mask.astype(np.uint8))) == segment["bbox"]
            assert {SCENE_CLASSES[k - 1] for k in np.unique(label[mask])} == {names[segment["category_id"]]["name"]}


def test_instance_masks_have_their_area_and_box(coco):
    assert coco.anns
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        assert list(cv2.boundingRect(mask)) == annotation["bbox"]
        assert isinstance(annotation["segmentation"], dict) or not annotation["iscrowd"]


def test_instances_are_the_thing_segments(root, coco):
    split = "train" if len(coco.imgs) == SMALL.train else "val"
    for index, entry in enumerate(panoptic(root, split)["annotations"]):
        ids = segment_ids(root, split, index)
        things = [s for s in entry["segments_info"] if s["category_id"] in coco.cats]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=entry["image_id"]))
        assert len(things) == len(annotations)
        for segment, annotation in zip(things, annotations, strict=True):
            assert segment["category_id"] == annotation["category_id"]
            assert segment["iscrowd"] == annotation["iscrowd"]
            assert np.array_equal(ids == segment["id"], coco.annToMask(annotation).astype(bool))


def test_category_ids_have_gaps_as_in_coco(root, coco):
    things, stuff = set(coco.cats), {c["id"] for c in panoptic(root, "val")["categories"] if not c["isthing"]}
    assert {category["name"] for category in coco.cats.values()} == set(THING_CLASSES)
    assert max(things) < 91 < min(stuff)
    assert len(things) < max(things) - min(things)


def test_ids_are_unique_over_the_splits(root):
    both = [json.loads((root / f"coco/annotations/instances_{s}2017.json").read_text()) for s, _ in SPLITS]
    for key in ("images", "annotations"):
        ids = [item["id"] for data in both for item in data[key]]
        assert len(ids) == len(set(ids))


def test_some_images_have_no_object_and_some_have_a_crowd(root, coco):
    assert any(not coco.getAnnIds(imgIds=image) for image in coco.imgs)
    if len(coco.imgs) == SMALL.train:
        crowds = [a for a in coco.anns.values() if a["iscrowd"]]
        assert crowds
        assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)


def test_the_three_layouts_show_the_same_picture(root):
    for split, index in PICTURES:
        folder = {"train": "training", "val": "validation"}[split]
        image = nyu_lines(root, split)[index][0].lstrip("/")
        paths = (
            f"ADEChallengeData2016/images/{folder}/ADE_{split}_{index + 1:08d}.jpg",
            f"coco/{split}2017/{coco_name(split, index)}.jpg",
            f"nyu/{image}",
        )
        assert len({(root / path).read_bytes() for path in paths}) == 1
        error = read(root / paths[0]).astype(float) - rendering_of(split, index).rgb
        assert np.abs(error).mean() < 4


def test_depth_is_the_rendered_one_in_millimetres_or_missing(root):
    missing = []
    for split, index in PICTURES:
        fields = nyu_lines(root, split)[index]
        assert [field.startswith("/") for field in fields[:2]] == [split == "train"] * 2
        image = Image.open(root / "nyu" / fields[1].lstrip("/"))
        depth, rendering = np.array(image), rendering_of(split, index)
        assert (image.mode, depth.dtype) == ("I;16", np.uint16)
        measured = depth > 0
        assert (np.abs(depth / 1000 - rendering.depth)[measured] <= 0.001).all()
        assert float(fields[2]) == pytest.approx(rendering.focal, abs=1e-3)
        missing.append(1 - measured.mean())
    assert 0.05 < np.mean(missing) < 0.12


def test_ade_class_list_counts_images_and_pixels(root):
    lines = (root / "ADEChallengeData2016/objectInfo150.txt").read_text().splitlines()
    labels = {split: np.stack([label_map(root, split, i) for i in range(count)]) for split, count in SPLITS}
    assert lines[0] == "Idx\tRatio\tTrain\tVal\tName"
    assert [line.split("\t")[4] for line in lines[1:]] == list(SCENE_CLASSES)
    for line in lines[1:]:
        number, ratio, train, val, _ = line.split("\t")
        seen = {split: (array == int(number)) for split, array in labels.items()}
        assert (int(train), int(val)) == tuple(int(seen[s].any(axis=(1, 2)).sum()) for s in ("train", "val"))
        assert float(ratio) == pytest.approx(np.concatenate(list(seen.values())).mean(), abs=1e-4)


@pytest.mark.parametrize("drawing", ["##.\n.#.\n...", "#.\n.#", "###\n#.#\n###", "#..\n...\n..#", "####"])
def test_masks_survive_their_text_form(drawing):
    mask = np.array([[cell == "#" for cell in row] for row in drawing.split("\n")])
    text = coco_segmentation(mask, crowd=False)
    packed = text if isinstance(text, dict) else coco_mask.merge(coco_mask.frPyObjects(text, *mask.shape))
    assert np.array_equal(coco_mask.decode(packed).astype(bool), mask)
    counts = coco_segmentation(mask, crowd=True)
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(counts, *mask.shape)).astype(bool), mask)


def test_run_lengths_start_with_zeros_and_go_down_the_columns():
    assert run_lengths(np.array([[True, False], [True, True]])) == [0, 2, 1, 1]
    assert run_lengths(np.array([[False, False], [True, True]])) == [1, 1, 1, 1]


def test_same_settings_write_nothing(tmp_path):
    root, few = tmp_path / "root", Settings(1, 1, (32, 32), 0)
    stamp = (write(root, few) / "scenes.json").stat().st_mtime_ns
    assert (write(root, few) / "scenes.json").stat().st_mtime_ns == stamp


def test_other_settings_replace_scenes_and_leave_nothing_behind(tmp_path):
    root = write(tmp_path / "root", Settings(2, 1, (32, 32), 0))
    write(root, Settings(1, 1, (32, 32), 0))
    assert len(list((root / "coco/train2017").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize("name", ["notes.txt", "coco/mine.txt", "scenes.json"])
def test_folder_of_somebody_else_is_refused_and_kept(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match="other than embedded scenes"):
        write(tmp_path, Settings(1, 1, (32, 32), 0))
    assert contents(tmp_path) == {name: b"[]"}


def test_failure_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.scenes.formats.write_class_list", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "root", Settings(1, 1, (32, 32), 0))
    assert list(tmp_path.iterdir()) == []


def run_tool(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["make_scenes", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code


def test_command_prints_one_line(tmp_path, monkeypatch, capsys):
    arguments = "--train 1 --val 1 --height 32 --width 40 --workers 1"
    assert run_tool(monkeypatch, "--root", tmp_path / "root", *arguments.split()) == 0
    assert capsys.readouterr().out.startswith("1 + 1 scenes of 32 x 40 pixels")


@pytest.mark.parametrize(
    "wrong", ["--train 0", "--height 8", "--workers 0", "--seed -1", "--difficulty x", "--val x", "--colour red"]
)
def test_wrong_arguments_end_with_two_and_one_line(tmp_path, monkeypatch, capsys, wrong):
    assert run_tool(monkeypatch, "--root", tmp_path / "root", *wrong.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_root_that_cannot_be_written_is_the_users_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert run_tool(monkeypatch, "--root", tmp_path / "file/root") == 2
    assert "cannot be written" in capsys.readouterr().err
