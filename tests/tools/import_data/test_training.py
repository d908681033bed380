"""Imported data train at once, and imported COCO scores as the original file does."""

import json
import re
import shlex

import numpy as np
import pytest
import yaml

from datasets.panoptic.ids import encode_ids, read_ids
from tests.conftest import ROOT, SHORT, read, some
from tests.launch import main_of
from tests.tools.import_data import made
from tools.import_data.__main__ import FORMATS as FORMS
from tools.import_data.__main__ import main
from tools.import_data.shapes import of_bitmap

# Small models from random numbers; the schedule in epochs stays.
TINY_BACKBONE = ["model.weights=null", "model.weights_exclude=[]"]
MIT = "model.backbone={name: mit_b0, weights: null, channels: [8, 16, 40, 64], depths: [1, 1, 1, 1]}"
CROPS = ["data.train_transforms.1.size=[32, 64]", "data.train_transforms.5.size=[32, 64]"]
RPN = [f"model.rpn.{name}=50" for name in ("before_nms_train", "before_nms_test", "proposals")]
RCNN = [MIT, "model.channels=16", "model.box_head.channels=16", "data.train_transforms.0.sizes=[64]", *RPN]
SETTINGS = {
    "seg": [MIT, "model.channels=16", "data.train_transforms.0.short=32", "data.train_transforms.0.long=64", *CROPS],
    "det": [*RCNN, "data.test_transforms.0.short=64", "data.test_transforms.0.long=96"],
    "inst": [*RCNN, "data.test_transforms.0.short=64", "data.test_transforms.0.long=96"],
    "pan": [
        *[MIT, "model.channels=16", "model.box_head.channels=16", *RPN],
        *["model.mask_channels=16", "model.semantic_channels=32"],
        *(f"data.{split}_transforms.0.{side}" for split in ("train", "test") for side in ("short=64", "long=96")),
    ],
    "depth": [MIT, "model.channels=16", "model.stem_channels=8", "model.points=2", "optimizer.rules=[]"],
}
REST = [
    "steps=2 epochs",
    "evaluation.every=2 epochs",
    *(word for word in SHORT if not word.startswith(("steps", "batch_size", "evaluation.every"))),
]
# Every row of the table of formats, and every kind of file: how its folder is made, its task, words after the format.
FORMATS = {
    "masks": (made.masks, "seg"),
    "masks of colours": (lambda root: made.masks(root, ((0, 0, 0), (255, 0, 0))), "seg"),
    "cityscapes": (made.cityscapes, "seg"),
    "voc": (made.voc, "det"),
    "voc label maps": (made.voc_maps, "seg", "--task seg"),
    "yolo": (made.yolo, "det"),
    "yolo polygons": (lambda root: made.yolo(root, polygons=True), "inst"),
    "coco of CVAT": (made.cvat, "inst"),
    "coco of Roboflow": (made.roboflow, "inst"),
    "coco panoptic": (made.panoptic, "pan", "--task pan"),
    "labelme": (made.labelme, "inst"),
    "labelme as maps": (made.labelme, "seg", "--task seg"),
    "labelstudio": (made.label_studio, "inst"),
    **{f"depth {kind}": (lambda root, kind=kind: made.depth(root, kind), "depth") for kind in ("npy", "tiff", "exr")},
    "depth png": (lambda root: made.depth(root, "png"), "depth", "--depth-scale 256"),
}
PAGE = (ROOT / "docs/own_data.md").read_text()
COMMANDS = [shlex.split(line, comments=True) for line in PAGE.split("```")[1].splitlines()[1:]]
TABLE = PAGE.split("## Formats")[1].split("\n\n")[1]


def test_the_page_has_four_commands_and_every_format():
    assert len(COMMANDS) == 4
    rows = set(re.findall(r"`--from (\w+(?: --task \w+)?)`", TABLE))
    assert {row.split()[0] for row in rows} == {*FORMS}
    tried = {" ".join([name.split()[0], *words]) for name, (_, _, *words) in FORMATS.items()}
    assert rows <= tried


@pytest.mark.parametrize("name", some(FORMATS, "masks"))
def test_from_a_folder_to_a_report_as_the_page_says(name, tmp_path, monkeypatch, capsys):
    fill, task, *words = FORMATS[name]
    if name == "depth exr":
        pytest.importorskip("OpenEXR")
    fill(tmp_path / "parts")
    moved = {"/data/parts": tmp_path / "parts", "/data/own": tmp_path / "own", "runs/": f"{tmp_path}/runs/"}
    tiny = [*TINY_BACKBONE, *SETTINGS[task], *REST, "batch_size=2", f"output_dir={tmp_path}/runs"]
    tiny = tiny if task != "depth" else tiny[2:]
    monkeypatch.chdir(ROOT)
    for _, *command in COMMANDS:
        line = shlex.join(command).replace("--from yolo", " ".join(["--from", name.split()[0], *words]))
        for old, new in moved.items():
            line = line.replace(old, str(new))
        program, *arguments = shlex.split(line.removeprefix("-m "))
        rounds = [["--check", *tiny], tiny] if program == "train.py" else [[]]
        for more in rounds:
            monkeypatch.setattr("sys.argv", [program, *arguments, *more])
            main_of(program.removesuffix(".py"))()
    assert "(2.0 epochs)" in capsys.readouterr().out
    result = read(tmp_path / "runs/own/score.json")
    assert result["num_images"] >= 1
    assert any(np.isfinite(value) for value in result["metrics"].values())
    assert "own" in (tmp_path / "runs/own/report.html").read_text()


def test_imported_coco_scores_as_the_original_file(tmp_path, here, monkeypatch):
    """Crowds, areas that are not those of the masks, and ids with gaps: the same predictions, the same digits."""
    source = tmp_path / "source"
    content = made.coco(source)
    for one in content["annotations"]:
        one |= {"id": 7 * one["id"] + 3, "area": one["area"] * 150, "iscrowd": int(one["id"] == 4)}
    train = {**content, "images": content["images"][:2], "annotations": content["annotations"][:6]}
    val = {**content, "images": content["images"][2:], "annotations": content["annotations"][6:]}
    val["annotations"][0]["iscrowd"] = 1
    for name, part in (("train", train), ("val", val)):
        made.text(source / f"annotations/{name}.json", json.dumps(part))
    rng = np.random.default_rng(0)
    results = []
    for one in val["annotations"]:
        x, y, w, h = (np.array(one["bbox"]) + rng.integers(-2, 3, 4)).clip(1).tolist()
        record = {"image_id": one["image_id"], "category_id": one["category_id"], "score": float(rng.random())}
        bitmap = np.zeros((made.HEIGHT, made.WIDTH), bool)
        bitmap[y : y + h, x : x + w] = True
        results.append({**record, "bbox": [x, y, w, h], "segmentation": of_bitmap(bitmap)})
    made.text(tmp_path / "predictions.json", json.dumps(results))
    scores = scores_of_both(source, "inst", "", tmp_path, here, monkeypatch)
    assert scores[0] == scores[1]
    assert 0 < scores[0][0]["segm/AP"] < 100


def test_imported_panoptic_scores_as_the_original_file(tmp_path, here, monkeypatch):
    """Crowds, void, missing flags and boxes: the same predictions, the same digits."""
    source = tmp_path / "source"
    made.panoptic(source, plain=True)
    (tmp_path / "predictions").mkdir()
    results = []
    for shift, path in enumerate(sorted((source / "annotations/panoptic_val").iterdir()), start=1):
        ids = np.roll(read_ids(path), shift, axis=(0, 1))
        segments = [{"id": number, "category_id": 4 if number > 300 else 3} for number in np.unique(ids).tolist()[1:]]
        results.append({"image_id": int(path.stem[-1]), "file_name": path.name, "segments_info": segments})
        (tmp_path / "predictions" / path.name).write_bytes(encode_ids(ids))
    made.text(tmp_path / "predictions.json", json.dumps({"annotations": results}))
    scores = scores_of_both(source, "pan", "panoptic_", tmp_path, here, monkeypatch)
    assert scores[0] == scores[1]
    assert 0 < scores[0][0]["PQ"] < 100


def scores_of_both(source, task, prefix, tmp_path, here, monkeypatch) -> list[tuple]:
    """The scores of predictions.json by the original files, and by the imported ones."""
    out = tmp_path / "own"
    monkeypatch.setattr("sys.argv", ["x", "--from", "coco", str(source), "--out", str(out), "--no-check"])
    main()
    data = {"root": str(source), "train_images": "images", "val_images": "images"}
    data |= {f"{split}_annotations": f"annotations/{prefix}{split}.json" for split in ("train", "val")}
    original = {"base": str(ROOT / f"configs/finetune_{task}.yaml"), "data": data}
    made.text(tmp_path / "original.yaml", yaml.safe_dump(original))
    scores = []
    for cfg in (tmp_path / "original.yaml", out / "config.yaml"):
        here("tools.score", "--cfg", cfg, "--predictions", tmp_path / "predictions.json", "--json", tmp_path / "s.json")
        result = read(tmp_path / "s.json")
        scores.append((result["metrics"], result["per_class"], result["num_images"]))
    return scores
