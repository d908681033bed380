"""Hostile annotation and prediction files: each is read as it stands or refused in one line that names it."""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from config import validate
from datasets.base import DenseDataset
from datasets.coco.values import is_number
from datasets.nyu.dataset import NYUConfig
from datasets.semantic.ade20k import ADE20KConfig
from errors import UserError
from structures import Instances, Panoptic, Prediction, Target
from tests.conftest import SHORT, TINY
from tests.datasets.coco import coco_layout
from tests.datasets.panoptic import panoptic_layout
from tests.datasets.png import png
from tests.faults.hostile_files.hostile import Trial, trial  # noqa: F401 (a fixture)
from tests.launch import run

Json = dict[str, Any]
Change = Callable[[Any], Any]
NAN, INF = math.nan, math.inf

# --- ways to spoil a JSON file ---------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1.5, 1e308, NAN, INF, -INF, 2**63, 10**30, 10**4000),
    *("", "x", "7", "\0", "../x", "/etc/passwd", "\ud800", "é" * 5000, "x\ny", "\x1b[2J"),
    *([], {}, [[]], [None], [NAN] * 4, [1e308] * 4, [-5, -5, 1, 1], [0, 0, 10**30, 1], [1, 2, 3], ["1"] * 4, {"id": 1}),
]
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a blank": b" \n",
    "null": b"null",
    "a number": b"3",
    "a text": b'"annotations"',
    "not a number": b"NaN",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "100,000 lists in each other": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects in each other": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "an unfinished object": b'{"images": [',
    "a number of 5,000 digits": b'{"images": ' + b"1" * 5000 + b"}",
    "zeros": bytes(1000),
    "a zip archive": b"PK\3\4" + bytes(100),
    "bytes that are no text": b'{"images": "\xff\xfe\xfd"}',
    "single quotes": b"{'images': [], 'annotations': [], 'categories': []}",
    "lines of objects": b'{"images": []}\n{"annotations": []}\n',
    "HTML": b"<html>404</html>",
    "a comment": b"// COCO\n{}",
}
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def spoilt(content: Any, records: list[tuple[Any, ...]], every: bool) -> Iterator[tuple[str, str, Any, str]]:
    """Name, key, value and text of a file in which one value of one of the records is another, absent, or twice there.

    records: paths in `content`. A value that is absent is `...`.
    """
    count = 0
    for record, key in [(path, key) for path in records for key in at(content, path)]:
        for value in (..., *VALUES):
            count += 1
            if not every and count % 11:
                continue
            new = copy.deepcopy(content)
            if value is ...:
                del at(new, record)[key]
            else:
                at(new, record)[key] = value
            name = "/".join(map(str, (*record, key)))
            yield f"{name} = {value!r:.60}", key, value, json.dumps(new)
        new = copy.deepcopy(content)
        at(new, record)["another"] = at(new, record)[key]
        yield f"{key} twice in {record}", key, ValueError, json.dumps(new).replace('"another"', json.dumps(key))


def cut(content: Any, every: bool) -> Iterator[tuple[str, bytes]]:
    """Name and content of files that end too early, and of some that are none."""
    data = json.dumps(content).encode()
    for length in range(1, len(data), len(data) // (60 if every else 5)):
        yield f"{length} of {len(data)} bytes", data[:length]
        yield f"{length} of {len(data)} bytes and zeros", data[:length].ljust(len(data), b"\0")
    yield "the content twice", data + data
    yield from TEXTS.items()


def sane(dataset: DenseDataset, load: bool) -> bool:
    """Reads everything, which must fit together."""
    for index in range(len(dataset)):
        target = dataset.target(index)
        if load:
            sample = dataset.load(index)
            assert sample.image.shape[:2] == sample.size
        found = target.instances
        if found is not None:
            assert found.boxes.isfinite().all()
            assert found.boxes.shape == (len(found.labels), 4)
            assert ((found.labels >= 0) & (found.labels < dataset.info.num_classes)).all()
        if target.panoptic is not None:
            assert set(target.panoptic.ids.unique().tolist()) - {0} == set(target.panoptic.labels)
    return True


# --- annotations -----------------------------------------------------------------------------------------------------


class Format:
    """A JSON file of annotations in its layout: `read(on_error)` builds the split and reads every sample of it."""

    def __init__(self, kind: str, root: Path) -> None:
        layout = panoptic_layout if kind == "panoptic" else coco_layout
        layout.write_layout(root)
        self.file = root / layout.TRAIN
        self.content = layout.stored(root)
        self._config = partial(layout.config, root, **({} if kind == "panoptic" else {"masks": kind == "instances"}))

    def read(self, on_error: str = "stop") -> DenseDataset:
        dataset = self._config(on_error=on_error).build("train")
        assert sane(dataset, load=True)
        return dataset

    @property
    def records(self) -> list[tuple[Any, ...]]:
        """One of each kind."""
        paths: list[tuple[Any, ...]] = [(), ("images", 0), ("annotations", 1), ("categories", 1)]
        if "segments_info" in self.content["annotations"][-1]:
            paths[2:3] = [("annotations", -1), ("annotations", -1, "segments_info", 1)]
        elif isinstance(self.content["annotations"][3]["segmentation"], dict):
            paths.append(("annotations", 3, "segmentation"))
        return paths


KINDS = ("detection", "instances", "panoptic")


def may_stand(kind: str, name: str, key: str, value: Any) -> bool:
    """Whether a file is valid with this value: it is right, or does not matter."""
    if value is ValueError:
        return False
    if kind == "detection" and "segmentation" in name:
        return True
    if value is ...:
        return key in ("area", "iscrowd") or (key == "bbox" and kind == "panoptic")
    match key:
        case "area":
            return kind == "panoptic" or value is None or is_number(value)
        case "iscrowd":
            return value is None or (value in (0, 1) if isinstance(value, int | float) else False)
        case "isthing":
            return isinstance(value, int | float) and value == 1
        case "bbox":
            return value == [-5, -5, 1, 1] or (value is None and kind == "panoptic")
        case "id":
            return (value == "7" or (value == 0 and type(value) is int)) and name.startswith("annotations/1/")
        case "image_id":
            return value == "7" and kind != "panoptic"  # another image
        case "segments_info":
            return value == []  # then there is nothing to train on, and the PNG is not read
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_values(tmp_path, every, tally, trial, kind):  # noqa: F811
    data = Format(kind, tmp_path)
    for name, key, value, text in spoilt(data.content, data.records, every):
        data.file.write_text(text)
        if may_stand(kind, name, key, value):
            trial.taken(name, data.read, data.file, bool)
            continue
        trial.refused(name, data.read, data.file)
        # To leave it out instead needs a report of every entry that is.
        skip = partial(data.read, "skip")
        trial.either(
            f"{name}, skipped", skip, data.file, lambda read: read.skipped and all("\n" not in x for x in read.skipped)
        )
    trial.end(
        tally,
        f"COCO files ({kind}) with a value missing, twice there, of a wrong type, not finite, huge, or out of range: "
        "read as it stands, refused in one line, or with on_error: skip left out and listed",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_none(tmp_path, every, tally, trial, kind):  # noqa: F811
    data = Format(kind, tmp_path)
    for name, content in cut(data.content, every):
        data.file.write_bytes(content)
        trial.refused(name, data.read, data.file)
    for encoding in ENCODINGS:
        data.file.write_bytes(json.dumps(data.content).encode(encoding))
        trial.taken(encoding, data.read, data.file, lambda read: len(read) > 0)
    trial.end(tally, f"COCO files ({kind}) cut short, in other encodings, or that are no such files")


SEGMENTATIONS: list[tuple[Any, bool]] = [  # of an image of 40 x 60, and whether it is right
    ([[5, 5, 9, 5, 9, 9]], True),
    ([[5, 5, 5, 5, 5, 5]], True),
    ([[-5.5, -5, 70, 5, 9, 50]], True),
    ([[5, 5, 9, 5, 9, 9], [1, 1, 2, 2]], False),
    ([[5, 5, 9, 5, 9]], False),
    ([[5, 5, 9, 5, 9, True]], True),
    ([[True] * 6], False),
    ([[5, 5, 9, 5, 9, None]], False),
    ([[5, 5, 9, 5, 9, 10**30]], False),
    ([[5, 5, 9, 5, 9, -(10**15)]], False),
    ([[5, 5, 9, 5, 9, 1e308, 1e308, 1e308]], False),
    ([[NAN] * 6], False),
    ([[[5, 5], [9, 5], [9, 9]]], False),
    ([[]], False),
    ([{}], False),
    ("polygon", False),
    (7, False),
    ({"size": [40, 60], "counts": [2400]}, True),
    ({"size": [40, 60], "counts": [0, 2400]}, True),
    ({"size": [40, 60], "counts": [0, 0, 0, 2400]}, True),
    ({"size": [40.0, 60.0], "counts": [1200, 1200]}, True),
    ({"size": [40, 60], "counts": [2400.0]}, True),
    ({"size": [40, 60], "counts": [2399.5, 0.5]}, False),
    ({"size": [40, 60], "counts": [2399]}, False),
    ({"size": [40, 60], "counts": [2401]}, False),
    ({"size": [40, 60], "counts": [2**40]}, False),
    ({"size": [40, 60], "counts": [2**32 - 1, 2401]}, False),
    ({"size": [40, 60], "counts": [-1, 2401]}, False),
    ({"size": [40, 60], "counts": [True, 2399]}, False),
    ({"size": [40, 60], "counts": [[2400]]}, False),
    ({"size": [40, 60], "counts": {}}, False),
    ({"size": [40, 60], "counts": "Pf2"}, False),
    ({"size": [40, 60], "counts": "\x7f"}, False),
    ({"size": [40, 60], "counts": "é"}, False),
    ({"size": [40, 60], "counts": "0" * 100_000}, False),
    ({"size": [40, 60], "counts": "oooooooooo0"}, False),
    ({"size": [60, 40], "counts": [2400]}, False),
    ({"size": [2400], "counts": [2400]}, False),
    ({"size": [10**30, 1], "counts": [2400]}, False),
    ({"size": "40x60", "counts": [2400]}, False),
    ({"counts": [2400]}, False),
    ({"size": [40, 60]}, False),
]
BOXES: list[tuple[Any, bool]] = [
    ([-10, -10, 1, 1], True),  # outside: an object in evaluation, none in training
    ([100, 100, 5, 5], True),
    ([0, 0, 0, 0], True),
    ([5, 5, 0.5, 20], True),
    ([-50, -50, 500, 500], True),
    ([0, 0, 9e14, 9e14], True),
    ([0, 0, 1e15, 1], False),
    ([0, 0, -1, 5], False),
    ([NAN, 0, 5, 5], False),
    ([0, 0, INF, 5], False),
    ([0, 0, 5, 10**400], False),
    ([0, 0, 5], False),
    ([0, 0, 5, 5, 5], False),
    ([0, 0, "5", 5], False),
    ([0, 0, True, 5], False),
    ([0, 0, None, 5], False),
    ({"x": 0}, False),
    ("0 0 5 5", False),
]


def test_masks_and_boxes(tmp_path, tally, trial):  # noqa: F811
    data = Format("instances", tmp_path)
    cases = [("segmentation", *case) for case in SEGMENTATIONS] + [("bbox", *case) for case in BOXES]
    for key, value, is_right in cases:
        content = copy.deepcopy(data.content)
        coco_layout.entry(content, "annotations", 17)[key] = value
        data.file.write_text(json.dumps(content))
        if is_right:
            trial.taken(f"{key} {value}", data.read, data.file, bool)
        else:
            trial.refused(f"{key} {value!r:.80}", data.read, data.file, "annotation 17")
    trial.end(
        tally, "polygons, run lengths and boxes that are negative, outside, empty, not finite, huge, of other sizes"
    )


# --- paths -----------------------------------------------------------------------------------------------------------

OUTSIDE = [
    *("../outside.jpg", "../../outside.jpg", "a/../../outside.jpg", "./../outside.jpg", "/etc/passwd", "//etc/passwd"),
    *("..", ".", "/", "../", "", "a\0.jpg", "\0", "~/outside.jpg", "~root", "..\\outside.jpg", "file:///etc/passwd"),
    *(
        "%2e%2e/outside.jpg",
        "a" * 300,
        "a/" * 3000,
        "train2017/../../outside.jpg",
        "\ud800.jpg",
        "x" * 5000,
        "sub/",
    ),
]


def absolute(path: Path) -> list[str]:
    return [*OUTSIDE, str(path), f"x/../..{path}"]


@pytest.mark.parametrize("kind", ["instances", "panoptic", "PNG of a panoptic file"])
def test_paths_out_of_the_folder(tmp_path, tally, trial, kind):  # noqa: F811
    """There would be something to read."""
    root = tmp_path / "root"
    data = Format(kind.split()[-1] if "PNG" not in kind else "panoptic", root)
    key = "images" if "PNG" not in kind else "annotations"
    for folder in ("train2017", data.file.with_suffix("")):
        (root / folder / "sub").mkdir(exist_ok=True, parents=True)
    whole = root / "train2017/000000000009.jpg"
    (root / "outside.jpg").write_bytes(whole.read_bytes())
    (root / "annotations/outside.jpg").write_bytes(whole.read_bytes())
    for name in absolute(whole):
        content = copy.deepcopy(data.content)
        content[key][-1 if "PNG" in kind else 0]["file_name"] = name
        data.file.write_text(json.dumps(content))
        trial.refused(f"{name!r:.80}", data.read, data.file)
    trial.end(tally, f"paths that lead out of the data in a file_name ({kind}): refused, nothing outside opened")


# --- NYU's lists -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    """Three pairs; both lists name them."""
    lines = []
    for number in range(3):
        for name, suffix, data in (
            ("rgb", "jpg", cv2.imencode(".jpg", np.full((24, 36, 3), 90, np.uint8))[1].tobytes()),
            ("depth", "png", png(np.full((24, 36), 1000 + 9 * number), 16)),
        ):
            path = tmp_path / f"nyu/room/{name}_{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        lines.append(f"/room/rgb_{number}.jpg /room/depth_{number}.png 518.8579")
    for name in ("nyu_train.txt", "nyu_test.txt"):
        (tmp_path / "nyu" / name).write_text("\n".join(lines))
    return tmp_path / "nyu"


def depth_config(root: Path) -> NYUConfig:
    transforms = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}
    return validate(NYUConfig, {"root": str(root), **transforms}, "data")


def read_depth(root: Path) -> DenseDataset:
    dataset = depth_config(root).build("train")
    for index in range(len(dataset)):
        assert dataset.load(index).image.shape == (24, 36, 3)
    return dataset


def lists(text: str) -> Iterator[tuple[str, bytes]]:
    """Lists that are wrong."""
    pair = "/room/rgb_0.jpg /room/depth_0.png"
    yield "nothing", b""
    yield "blanks", b" \n\n\t\n"
    yield "two bytes a character, no mark", text.encode("utf-16-le")
    yield from ((encoding, text.encode(encoding)) for encoding in ("utf-16", "utf-32"))
    yield "bytes that are no text", text.encode() + b"\n\xff\xfe"
    yield "zeros behind", text.encode() + b"\n" + bytes(100)
    yield "zeros within", text.replace("rgb_1", "rgb\0_1").encode()
    yield "zeros in a folder", text.replace("room/rgb_1", "ro\0om/rgb_1").encode()
    yield "JSON", b'[["room/rgb_0.jpg", "room/depth_0.png"]]'
    yield "commas", text.replace(" ", ",").encode()
    yield "one column", b"room/rgb_0.jpg\nroom/rgb_1.jpg"
    yield "a header", b"image depth focal\n" + text.encode()
    yield "one word in a line", b"x" * 10**6
    for focal in ("nan", "inf", "-inf", "1e400", "wide", "518.8579 1", "518,8579", "0x20", "'1'"):
        yield f"focal length {focal}", f"{pair} {focal}".encode()
    for name in OUTSIDE:
        if name and not name.isspace():
            shown = name.encode(errors="surrogatepass").decode(errors="replace")
            yield f"image {shown:.60}", f"{shown} /room/depth_0.png 518.8".encode()
            yield f"depth {shown:.60}", f"/room/rgb_0.jpg {shown} 518.8".encode()
    yield "an image twice", f"{pair} 1\n{pair} 1".encode()
    yield "an image by another path", f"{pair} 1\n/room/../room/rgb_0.jpg /room/depth_1.png 1".encode()
    yield "depth for an image", b"/room/depth_0.png /room/rgb_0.jpg 518.8"
    yield "the image for its depth", b"/room/rgb_0.jpg /room/rgb_0.jpg 518.8"
    yield "no depth at all", b"/room/rgb_0.jpg None 518.8"


def test_lists(nyu, tmp_path, every, tally, trial):  # noqa: F811
    file = nyu / "nyu_train.txt"
    text = file.read_text()
    (tmp_path / "outside.jpg").write_bytes((nyu / "room/rgb_0.jpg").read_bytes())
    for name, data in lists(text):
        file.write_bytes(data)
        named = nyu / "room" if "for" in name else file
        trial.refused(name, partial(read_depth, nyu), named)
    for length in range(0, len(text), 1 if every else 9):
        file.write_text(text[:length])
        trial.either(f"{length} bytes", partial(read_depth, nyu), nyu, lambda read: len(read) <= 3)
    for name, data in {
        "another end of lines": text.replace("\n", "\r\n").encode(),
        "a mark of UTF-8": text.encode("utf-8-sig"),
        "tabs": text.replace(" ", "\t").encode(),
        "blank lines": text.replace("\n", "\n\n  \n").encode(),
        "no focal lengths": text.replace(" 518.8579", "").encode(),
    }.items():
        file.write_bytes(data)
        trial.taken(name, partial(read_depth, nyu), file, lambda read: len(read) == 3)
    file.unlink()
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        make(file)
        trial.refused("no file", partial(read_depth, nyu), file)
        trial.taken("no file, but of the other split", partial(depth_config(nyu).build, "val"), file, bool)
        file.rmdir() if file.is_dir() else file.unlink()
    trial.end(tally, "NYU's lists cut short, in other encodings, with wrong lines and paths that lead out of the data")


# --- ADE20K ----------------------------------------------------------------------------------------------------------


def test_folders(tmp_path, tally, trial):  # noqa: F811
    """Pixels are the subject of test_hostile_images; objectInfo150.txt is never read."""
    image = cv2.imencode(".jpg", np.full((24, 36, 3), 90, np.uint8))[1].tobytes()
    images, labels = tmp_path / "images/training", tmp_path / "annotations/training"
    for folder, data, suffix in ((images, image, "jpg"), (labels, png(np.ones((24, 36), np.uint8)), "png")):
        folder.mkdir(parents=True)
        for name in "ab":
            (folder / f"{name}.{suffix}").write_bytes(data)
    options = {"root": str(tmp_path), "train_transforms": ["normalize"], "test_transforms": ["normalize"]}

    def read() -> list[int]:
        dataset = validate(ADE20KConfig, options, "data").build("train")
        return [int(dataset.load(index).semantic.max()) for index in range(len(dataset))]

    for content in (b"", b"\0" * 99, b"Idx\tRatio\nnan\tnan", "Idx".encode("utf-16")):
        (tmp_path / "objectInfo150.txt").write_bytes(content)
        trial.taken(f"objectInfo150.txt {content!r}", read, tmp_path / "objectInfo150.txt", [0, 0].__eq__)
    for path in (
        images / ".hidden.jpg",
        labels / "notes.txt",
        labels / ".a.png",
        images / "Thumbs.db",
        images / "x.gif",
    ):
        path.write_bytes(b"")
        trial.taken(str(path), read, path, [0, 0].__eq__)
    for path in (
        images / "a.png",
        images / "c.jpg",
        labels / "c.png",
        labels / "a.PNG",
        labels / "b .png",
        images / "A.jpg",
    ):
        path.write_bytes(b"")
        trial.refused(str(path), read, path.parent)
        path.unlink()
    for path in (labels / "d.png", images / "d.jpg"):
        path.mkdir()
    trial.refused("folders for files", read, images / "d.jpg")
    for folder in (images, labels):
        folder.rename(tmp_path / "away")
        trial.refused(f"no {folder.name}", read, folder)
        folder.write_bytes(b"")
        trial.refused(f"a file for {folder.name}", read, folder)
        folder.unlink()
        folder.mkdir()
        trial.refused(f"nothing in {folder.name}", read, folder)
        folder.rmdir()
        (tmp_path / "away").rename(folder)
    trial.end(tally, "ADE20K folders with files too many, too few, of one stem, of wrong kinds")


# --- predictions, as tools.score reads them --------------------------------------------------------------------------


class Scored:
    """Right predictions for a layout's validation set in files, to spoil."""

    def __init__(self, kind: str, root: Path) -> None:
        layout = panoptic_layout if kind == "panoptic" else coco_layout
        self._config = layout.config(layout.write_layout(root), **({} if kind == "panoptic" else {"masks": True}))
        self._dataset = self._config.build("val", annotations_only=True)
        self._folder = root / "out"
        files = self._config.prediction_files(self._folder)
        for target in self._targets():
            files.write(_prediction(target), target)
        files.finish()
        self.file = self._folder / "predictions.json"
        self.content = json.loads(self.file.read_text())

    def read(self) -> int:
        """As tools.score does."""
        files = self._config.prediction_files(self._folder)
        for target in self._targets():
            files.read(target)
        if unread := files.unread():
            raise UserError(self.file, f"has {unread}", "")
        return len(self._dataset)

    def _targets(self) -> Iterator[Target]:
        return (self._dataset.target(index) for index in range(len(self._dataset)))


def _prediction(target: Target) -> Prediction:
    if target.panoptic is not None:
        return Prediction(panoptic=Panoptic(target.panoptic.ids, target.panoptic.labels))
    found = target.instances
    return Prediction(
        instances=Instances(found.boxes, found.labels, rles=found.rles, scores=torch.rand(len(found.labels)))
    )


def may_be_scored(kind: str, name: str, key: str, value: Any) -> bool:
    """Whether predictions are valid with this value."""
    if value is ValueError:
        return False
    match key:
        case "score":
            return value is not ... and is_number(value)
        case "bbox":
            return value == [-5, -5, 1, 1]
        case "area":
            return True
        case "image_id":
            return kind == "panoptic" and value == "7"  # that is the image's id
        case "category_id":
            return kind == "instances" and value == "7"  # of the official 80
    return False


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_predictions(tmp_path, every, tally, trial, kind):  # noqa: F811
    data = Scored(kind, tmp_path)
    trial.taken("right", data.read, data.file, (6).__eq__)
    records = [(1,), (1, "segmentation")]
    if kind == "panoptic":
        row = next(i for i, record in enumerate(data.content["annotations"]) if len(record["segments_info"]) > 1)
        records = [(), ("annotations", row), ("annotations", row, "segments_info", 0)]
    for name, key, value, text in spoilt(data.content, records, every):
        data.file.write_text(text)
        if may_be_scored(kind, name, key, value):
            trial.taken(name, data.read, data.file, bool)
        else:
            trial.refused(name, data.read, data.file if key != "file_name" else data.file.with_suffix(""))
    for name, content in cut(data.content, every):
        if kind == "panoptic" or name != "an empty list":
            data.file.write_bytes(content)
            trial.refused(name, data.read, data.file)
    for encoding in ENCODINGS:
        data.file.write_bytes(json.dumps(data.content).encode(encoding))
        trial.taken(encoding, data.read, data.file, bool)
    for name in absolute(data.file) if kind == "panoptic" else ():
        content = copy.deepcopy(data.content)
        content["annotations"][0]["file_name"] = name
        data.file.write_text(json.dumps(content))
        trial.refused(f"PNG {name!r:.80}", data.read, data.file.with_suffix(""))
    data.file.unlink()
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)):
        make(data.file)
        trial.refused("no file", data.read, data.file)
        data.file.rmdir() if data.file.is_dir() else data.file.unlink()
    trial.end(
        tally,
        f"prediction files ({kind}) with wrong values, foreign images, numbers that are not finite, paths that lead "
        "out, cut short, or that are no such files: refused by the reader of tools.score",
    )


# --- real commands ---------------------------------------------------------------------------------------------------

DETECTOR = [
    *("model.backbone.channels=[8, 16, 40, 64]", "model.channels=16", "model.box_head.channels=32"),
    *("model.box_head.min_score=0.01", *SHORT),
]
DEPTH = ["model.backbone.channels=[8, 16, 40, 64]", "model.stem_channels=8", "model.channels=16", *SHORT]


def pair(key: str, value: Any) -> Change:
    """Change a file's first image, or its first annotation if that has the key alone."""

    def change(content: Any) -> Any:
        record = content["images"][0] if key in content["images"][0] else content["annotations"][0]
        record[key] = value
        return content

    return change


SPOILT: dict[str, Change] = {
    "a NaN in a box": pair("bbox", [0, 0, NAN, 1]),
    "a path out of the folder": pair("file_name", "../../outside.jpg"),
    "a list": lambda content: [content],
    "no categories": lambda content: {key: value for key, value in content.items() if key != "categories"},
    "another size": pair("height", 47),
    "a dangling category": pair("category_id", 999),
    "a dangling image": pair("image_id", 10**6),
    "a huge id": pair("id", 2**70),
}


def test_training_ends_in_one_line(scenes, tmp_path, every, tally, trial):  # noqa: F811
    for kind, name in (("inst", "instances"), ("pan", "panoptic")):
        source = scenes / f"coco/annotations/{name}_train2017.json"
        file = tmp_path / f"{name}.json"
        words = ["--cfg", f"configs/small/{kind}.yaml", *DETECTOR, f"data.root={scenes}/coco", f"output_dir={tmp_path}"]
        segments = [] if kind == "inst" else [f"data.train_segments={source.with_suffix('')}"]
        for number, (spoilt_by, change) in enumerate(SPOILT.items()):
            of_objects = "box" in spoilt_by or "category" in spoilt_by
            if (kind == "pan" and of_objects) or (not every and number != (kind == "pan")):
                continue
            file.write_text(json.dumps(change(json.loads(source.read_text()))))
            done = run("train", "--check", *words, *segments, f"data.train_annotations={file}", "batch_size=10")
            trial.command(f"{kind}: {spoilt_by}", done, file)
    for number, text in enumerate(["", "a b c d", "/../a.jpg /b.png 1", "a\0/b.jpg c.png 1"] if every else [""]):
        file = tmp_path / f"{number}.txt"
        file.write_text(text)
        words = ["--cfg", "configs/small/depth.yaml", *DEPTH, f"data.root={scenes}/nyu", f"output_dir={tmp_path}"]
        trial.command(f"list {text!r}", run("train", "--check", *words, f"data.train_list={file}"), file)
    trial.end(tally, "train.py given spoilt annotations: one line, exit code 2")


def test_score_ends_in_one_line(scenes, tmp_path, every, tally, trial):  # noqa: F811
    nowhere = [f"output_dir={tmp_path}"]
    words = {
        "inst": [*DETECTOR, f"data.root={scenes}/coco"],
        "pan": [*DETECTOR, f"data.root={scenes}/coco"],
        "seg": [*TINY, f"data.root={scenes}/ADEChallengeData2016"],
        "depth": [*DEPTH, f"data.root={scenes}/nyu"],
    }
    record = {"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    panoptic = json.loads((scenes / "coco/annotations/panoptic_val2017.json").read_text())
    files: list[tuple[str, Any]] = [
        ("inst", [{**record, "score": NAN}]),
        ("pan", {"annotations": [*panoptic["annotations"], {**panoptic["annotations"][0], "image_id": 10**6}]}),
        ("seg", {}),
        ("depth", {}),
        ("inst", [{**record, "image_id": 10**6}]),
        ("inst", [{**record, "category_id": 0}]),
        ("inst", [{**record, "segmentation": {"size": [1, 1], "counts": [1]}}]),
        ("inst", panoptic),
        ("pan", {"annotations": panoptic["annotations"][1:]}),
        ("pan", {"annotations": [{**panoptic["annotations"][0], "file_name": "../../../outside.png"}]}),
    ]
    for number, (kind, content) in enumerate(files if every else files[:3]):
        out = tmp_path / str(number)
        out.mkdir()
        (out / "predictions.json").write_text(json.dumps(content))
        if kind == "pan":
            (out / "predictions").symlink_to(scenes / "coco/annotations/panoptic_val2017")
        done = run("tools.score", "--cfg", f"configs/small/{kind}.yaml", *words[kind], *nowhere, "--predictions", out)
        trial.command(f"{kind} {content!r:.100}", done, out)
    good = png(np.full((48, 64), 1000), 16)
    for kind, data in chain(
        (("seg", data) for data in (b"", good, png(np.ones((9, 9), np.uint8)), png(np.full((48, 64), 200)))),
        (("depth", data) for data in (b"", good[:-1], png(np.zeros((48, 64), int)), png(np.full((48, 64), 0), 16))),
    ):
        if every or not data:
            out = tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}"
            out.mkdir()
            folder = {"seg": "ADEChallengeData2016/annotations/validation", "depth": "nyu"}[kind]
            for path in (scenes / folder).rglob("*.png"):
                relative = path.relative_to(scenes / folder).with_suffix("")
                (out / f"{str(relative).replace('/', '_').replace('sync_depth', 'rgb')}.png").write_bytes(data)
            done = run(
                "tools.score", "--cfg", f"configs/small/{kind}.yaml", *words[kind], *nowhere, "--predictions", out
            )
            trial.command(f"{kind} {data[:40]!r}", done, out)
    trial.end(tally, "tools.score given spoilt predictions: one line, exit code 2")
