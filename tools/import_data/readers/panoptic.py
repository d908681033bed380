"""COCO panoptic files: for each split a JSON file and a folder of PNGs whose colours are ids of segments.

Ids, boxes, areas and crowds stay as they are. Every PNG is read once, for the segments that it has.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datasets.coco.values import box_of, flag_of, id_number, is_number, is_text
from datasets.files.folders import normal
from datasets.files.reading import read_bytes, read_header, reporting_damage
from datasets.panoptic.ids import END, boxes_of, read_ids, unique_ids
from errors import UserError
from tools.import_data.options import Options, without_repeats
from tools.import_data.readers.maps import turned
from tools.import_data.record import Item, Object, Report, Source, file_split, split_of
from tools.import_data.source_files import Images, Look, NotFoundError, clean, walk

Contents = Mapping[str, dict[str, Any]]  # parsed files, by path


def is_panoptic(content: dict[str, Any]) -> bool:
    """Whether a COCO file has panoptic annotations."""
    return any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"])


def category_ids(content: dict[str, Any]) -> set[int | None]:
    """The ids of all categories of a file."""
    return {id_number(one.get("id")) for one in content["categories"] if isinstance(one, dict)}


def read(options: Options, contents: Contents, classes: dict[int, str]) -> Source:
    """Read the images and segments of panoptic files. classes: names by category id. Raises UserError."""
    report = options.report
    things = _things(options, contents, list(classes.values()))
    pngs = {path: Images(_png_folder(options, path, content)) for path, content in contents.items()}
    taken = {
        os.path.abspath(pngs[path].root / file)
        for path, content in contents.items()
        for file in _named(pngs[path].names, _png_names(content))
    }
    options.images = Images(options.image_root or options.root, without=taken)
    items = [item for path, content in contents.items() for item in _items(options, path, content, pngs[path], things)]
    items = without_repeats(items, report)
    if not items:
        raise UserError(options.source, f"no image can be used ({'; '.join(report.lines())})", "correct the files")
    if not things:
        report.note("no category is a thing (isthing 1); if some are, name them with --things a,b")
    return Source("pan", items, classes=classes, things=things)


def read_segments(path: Path, listed: Collection[int], seen: Look) -> tuple[np.ndarray, bool] | None:
    """The ids [H, W] int32 of a PNG as its image is displayed, and whether training can read the file as it is.

    Some tools store the colours as grey levels, with a palette or with alpha; others store the ids as plain values.
    None: it has another size than the image. Raises UserError if it cannot be read.
    """
    try:
        ids, as_stored = read_ids(path), True
    except UserError:
        ids, as_stored = _other_kind(path, listed), False
    found = turned(ids, seen)
    return None if found is None else (found, as_stored and ids.shape == seen.size)


def _other_kind(path: Path, listed: Collection[int]) -> np.ndarray:
    header = read_header(path, read_bytes(path))
    forms = []
    with reporting_damage(path):
        if header.mode in ("1", "L", "P", "I", "I;16"):
            forms.append(np.asarray(header).astype(np.int32))
        if header.mode not in ("I", "I;16"):
            forms.append(np.asarray(header.convert("RGB")) @ np.array([1, 256, 65536], np.int32))
    return max(forms, key=lambda ids: len(set(listed) & set(unique_ids(ids)[0].tolist())))


def _things(options: Options, contents: Contents, names: list[str]) -> frozenset[str]:
    """The names of the categories that are things. Raises UserError if it is not clear which are."""
    if options.things is not None:
        for name in options.things:
            if name not in names:
                raise UserError(f"--things {name}", "is not a category", f"name some of {', '.join(names)}")
        return frozenset(options.things)
    kinds: dict[str, set[int | None]] = {}
    for content in contents.values():
        for record in content["categories"]:
            if isinstance(record, dict) and record.get("name") in names:
                kind = record.get("isthing")
                kinds.setdefault(record["name"], set()).add(int(kind) if kind in (0, 1) else None)
    for name, found in kinds.items():
        if found not in ({0}, {1}):
            what = "has no isthing of 0 or 1, or not the same in all files"
            raise UserError(f"category {name}", what, "name the things with --things a,b")
    return frozenset(name for name, found in kinds.items() if found == {1})


def _png_folder(options: Options, path: str, content: dict[str, Any]) -> Path:
    """The folder of a file's PNGs. Raises UserError if there is none, or if it is not clear which it is.

    It is called like the file, or like its split, or by a word, or it has the most PNGs, or it is the nearest.
    """
    root = options.labels_root or options.root
    names = _png_names(content)
    counts = Counter(os.path.dirname(file) for file in _named(walk(root), names))
    stem, split = PurePosixPath(path).stem, file_split(path)
    ranks = sorted(
        (
            PurePosixPath(folder).name == stem,
            file_split(folder) == split,
            "panoptic" in folder.lower(),
            count,
            len(os.path.commonpath([os.path.dirname(path), folder])),
            folder,
        )
        for folder, count in counts.items()
    )
    if not ranks:
        what = f"none of its PNGs lies below {root}" + (f", such as {min(names)}" if names else "")
        raise UserError(options.root / path, what, "name their folder with --labels DIR")
    if len(ranks) > 1 and ranks[-1][:-1] == ranks[-2][:-1]:
        what = f"its PNGs may lie in {ranks[-1][-1]} or {ranks[-2][-1]}"
        raise UserError(options.root / path, what, "name their folder with --labels DIR")
    return root / ranks[-1][-1]


def _png_names(content: dict[str, Any]) -> set[str]:
    """The names of all PNGs of a file, without folders."""
    names = [one.get("file_name") for one in content["annotations"] if isinstance(one, dict)]
    return {PurePosixPath(clean(name)).name for name in names if is_text(name)}


def _named(files: Iterable[str], names: Collection[str]) -> list[str]:
    return [file for file in files if PurePosixPath(normal(file)).name in names]


def _items(
    options: Options, path: str, content: dict[str, Any], pngs: Images, things: Collection[str]
) -> Sequence[Item]:
    report, split = options.report, file_split(path)
    names = {id_number(one.get("id")): one.get("name") for one in content["categories"] if isinstance(one, dict)}
    records: dict[int | None, dict[str, Any]] = {}
    for record in content["annotations"]:
        number = id_number(record.get("image_id")) if isinstance(record, dict) else None
        if number is None or number in records or not isinstance(record.get("segments_info"), list):
            report.drop(
                "annotation without image_id or segments_info, or the second of its image", f"{number} of {path}"
            )
        else:
            records[number] = record
    items = []
    for image in content["images"]:
        number = id_number(image.get("id")) if isinstance(image, dict) else None
        name = image.get("file_name") if isinstance(image, dict) else None
        if number is None or not is_text(name):
            report.drop("image entry without id or file_name", f"{image} of {path}")
            continue
        record = records.pop(number, None)
        if record is None:
            report.drop("image without annotation", name)
            continue
        located = options.item(name, path, name)
        if located is None:
            continue
        item, seen = located
        item.id, item.split = number, split or split_of(item.name)
        if _fill(item, seen, record, names, pngs, things, report):
            items.append(item)
    for number in records:
        report.drop("annotation of an image that is not listed", f"image {number} of {path}")
    return items


def _fill(
    item: Item,
    seen: Look,
    record: dict[str, Any],
    names: Mapping[int | None, Any],
    pngs: Images,
    things: Collection[str],
    report: Report,
) -> bool:
    """Give the item its PNG and its segments. Returns False and drops it if that is impossible."""
    name = record.get("file_name")
    try:
        item.labels = pngs.root / pngs.find(name if is_text(name) else PurePosixPath(item.name).stem)
        segments = {id_number(one.get("id")): one for one in record["segments_info"] if isinstance(one, dict)}
        listed = [number for number in segments if number is not None]
        found = read_segments(item.labels, listed, seen)
    except NotFoundError:
        report.drop("image whose PNG of segments is not on disk", f"{name} of {item.name}")
        return False
    except UserError as error:
        report.drop("image whose PNG of segments cannot be read", error.brief)
        return False
    if found is None:
        report.drop("image of another size than its PNG of segments", item.name)
        return False
    if seen.orientation != 1:
        report.note("images turned by EXIF; PNGs of the stored size are turned with them", item.name)
    ids, item.labels_fit = found
    present = [number for number in unique_ids(ids)[0].tolist() if number != 0]
    if len(listed) < len(record["segments_info"]):
        report.drop("segments without an id, or with one that appears twice", item.name)
    for number in listed:
        where = f"segment {number} of {item.name}"
        label = names.get(id_number(segments[number].get("category_id")))
        if not 0 < number < END or number not in present:
            report.drop("segment that is not in its PNG", where)
        elif not isinstance(label, str):
            report.drop("segment of a category that is not listed", where)
        else:
            item.objects.append(_segment(segments[number], number, label, label in things, ids, report, where))
    if len(item.objects) < len(present):
        item.labels_fit = False
        report.note("images in which segments that are not listed became void", item.name)
    return True


def _segment(
    entry: dict[str, Any], number: int, label: str, is_thing: bool, ids: np.ndarray, report: Report, where: str
) -> Object:
    try:
        crowd = bool(flag_of(entry, "iscrowd"))
    except ValueError as error:
        report.note(f"segments taken as no crowds ({error})", where)
        crowd = False
    if crowd and not is_thing:
        report.note("segments of stuff that are marked as crowds, which only things can be", where)
        crowd = False
    try:
        x, y, width, height = box_of(entry)
    except ValueError:
        x, y, width, height = boxes_of(ids, np.array([number]))[0].tolist()
    area = entry.get("area")
    return Object(label, (x, y, width, height), crowd=crowd, id=number, area=area if is_number(area) else None)
