"""Make panoptic data (`data.name=coco_panoptic`) from object masks and label maps of stuff.

`python -m tools.make_panoptic --instances FILE.json --semantic FOLDER --stuff VALUE=NAME .. --out FILE.json`

Objects come from a COCO file with masks. Stuff comes from a single-channel PNG per image (FOLDER/a/1.png for a/1.jpg)
and is used only where there is no object. COCO panoptic annotations are written to --out, and the PNGs to the folder
beside it with the same name without .json. The categories are those of --instances, followed by the stuff in the order
given, numbered from the largest id on. Use the same --stuff for all splits.
"""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, read_early, run_command

REST = "rest"  # value of --void


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.make_panoptic", description=__doc__)
    parser.add_argument(
        "--instances", type=Path, required=True, metavar="FILE.json", help="objects with masks, in COCO's format"
    )
    parser.add_argument(
        "--semantic", type=Path, required=True, metavar="FOLDER", help="label maps of the same images, PNG"
    )
    parser.add_argument("--stuff", nargs="+", required=True, metavar="VALUE=NAME", help="two values may have one name")
    parser.add_argument("--void", nargs="+", default=[], metavar="VALUE", help=f"no stuff; {REST}: all other values")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE.json",
        help="the panoptic annotations; their PNGs go into a folder of this name",
    )
    parser.add_argument(
        "--overlap",
        choices=["smaller", "order"],
        default="smaller",
        help="which object is on top: the smaller, or the later in the file; crowds are below all (default: smaller)",
    )
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import cv2
import numpy as np
from tqdm import tqdm

from datasets.coco.annotations import Annotations, read_annotations, read_classes
from datasets.coco.json_file import ADVICE_CORRECT, EntryErrors
from datasets.coco.masks import decode
from datasets.files.folders import Files
from datasets.files.images import read_label_map
from datasets.files.paths import problem_with
from datasets.panoptic.ids import encode_ids, unique_ids
from structures import Size

VOID, UNKNOWN = 0, -1  # entries of the table from label-map values to category ids


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if problem := problem_with(arguments.instances, "file"):
        raise UserError(f"--instances {arguments.instances}", problem, "name a COCO file with masks")
    if problem := problem_with(arguments.semantic, "folder"):
        raise UserError(f"--semantic {arguments.semantic}", problem, "name the folder of label maps")
    _check_out(arguments.out, arguments.instances, arguments.semantic)
    things = read_classes(arguments.instances)
    stuff, table = read_stuff(arguments.stuff, arguments.void, max(things, default=0) + 1)
    if shared := set(things.values()) & set(stuff.values()):
        raise UserError(f"--stuff {min(shared)}", f"is a category of {arguments.instances}, too", "rename it")

    entry_errors = EntryErrors(arguments.instances, "stop", ADVICE_CORRECT)
    annotations = read_annotations(arguments.instances, things, masks=True, images=None, entry_errors=entry_errors)
    label_maps = _label_maps(annotations, arguments.semantic)
    folder, names = (
        arguments.out.with_suffix(""),
        [f"{image_id:012d}.png" for image_id in annotations.image_ids.tolist()],
    )
    _check_folder(arguments.out, names, annotations)
    category_ids = np.array(sorted(things), np.int64)[annotations.labels]
    records: list[dict[str, Any]] = []
    count = hidden = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for image, path in enumerate(tqdm(label_maps, unit="image", disable=None)):
            rows = annotations.rows(image)
            stuff_map = read_stuff_map(path, table, annotations.size(image))
            objects = draw_objects(annotations, image, arguments.overlap)
            ids, stuff_ids = fill_stuff(objects, stuff_map, len(rows))
            kinds = [*zip(category_ids[rows].tolist(), annotations.crowd[rows].tolist(), strict=True)]
            segments = describe(ids, [*kinds, *((category_id, False) for category_id in stuff_ids)])
            (folder / names[image]).write_bytes(encode_ids(ids))
            image_id = int(annotations.image_ids[image])
            records.append({"image_id": image_id, "file_name": names[image], "segments_info": segments})
            count += len(segments)
            hidden += len(rows) + len(stuff_ids) - len(segments)
        _write(arguments.out, annotations, records, things, stuff)
    except OSError as error:
        raise UserError(f"--out {arguments.out}", f"cannot be written ({error})", "choose another place") from None
    print(f"{arguments.out}, {folder}: {count} segments in {len(records)} images")
    print(f"left out as hidden by others: {hidden} object(s)")
    print(f"stuff: {', '.join(f'{number} {name}' for number, name in stuff.items())}")


# --- options ---------------------------------------------------------------------------------------------------------


def read_stuff(stuff: list[str], void: list[str], first_id: int) -> tuple[dict[int, str], np.ndarray]:
    """Parse --stuff and --void. Return the stuff names by category id, numbered from `first_id`, and a table.

    The table [2**16] holds the category id of every value of a label map, VOID or UNKNOWN.
    """
    table = np.full(2**16, VOID if REST in void else UNKNOWN, np.int64)
    ids: dict[str, int] = {}
    defined: set[int] = set()
    pairs = [(item, *item.partition("=")[::2]) for item in stuff]
    for option, value, name in [*pairs, *((item, item, None) for item in void if item != REST)]:
        if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) < 2**16) or name == "":
            do = "write for example --stuff 1=wall 2=floor --void 0 255"
            raise UserError(f"argument {option}", "is not valid", do)
        if int(value) in defined:
            raise UserError(f"argument {option}", f"value {value} is already defined", "leave one out")
        defined.add(int(value))
        table[int(value)] = VOID if name is None else ids.setdefault(name, first_id + len(ids))
    return {number: name for name, number in ids.items()}, table


def _check_out(out: Path, instances: Path, semantic: Path) -> None:
    """Raise UserError if `out` is not a JSON file, or would overwrite the input."""
    if out.suffix != ".json":
        raise UserError(f"--out {out}", "is not the name of a .json file", "write for example annotations/train.json")
    if out.resolve() == instances.resolve():
        raise UserError(f"--out {out}", "would overwrite --instances", "choose another name")
    if out.with_suffix("").resolve().is_relative_to(semantic.resolve()):
        raise UserError(f"--out {out}", f"would write PNGs into {semantic}", "choose another name")


def _check_folder(out: Path, names: list[str], annotations: Annotations) -> None:
    """Raise UserError if the folder for the PNGs holds the images, or other files than those of an earlier run."""
    folder = out.with_suffix("")
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    images = {Path(annotations.names[image]).name for image in range(len(names))}
    if present & images or (present - set(names) and not out.exists()):
        do = "choose another name, or empty the folder"
        raise UserError(f"--out {out}", f"would write PNGs into {folder}, which holds other files", do)


def _label_maps(annotations: Annotations, semantic: Path) -> list[Path]:
    """The label map of every image, by the name that its folder lists. Raises UserError if one is missing."""
    files = Files(semantic)
    names = [f"{os.path.splitext(annotations.names[image])[0]}.png" for image in range(len(annotations.image_ids))]
    try:
        found = [files.find(name) for name in names]
    except ValueError as error:
        raise UserError(semantic, str(error), "rename or remove one of them") from None
    missing = [name for name, file in zip(names, found, strict=True) if file is None]
    if missing:
        more = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise UserError(semantic / missing[0], f"no such label map{more}", "add it, or take out the image")
    return [semantic / file for file in found if file is not None]


# --- one image -------------------------------------------------------------------------------------------------------


def read_stuff_map(path: Path, table: np.ndarray, size: Size) -> np.ndarray:
    """Read the category id of the stuff at every pixel, or VOID: int64 [H, W].

    Raises UserError if the label map cannot be read, has another size than the image, or holds an unknown value.
    """
    values = read_label_map(path)
    if values.shape != size:
        (h, w), (height, width) = values.shape, size
        what = f"is {w} x {h} pixels (width x height) but its image is {width} x {height}"
        raise UserError(path, what, "give it the size of its image")
    categories: np.ndarray = table[values]
    if categories.min() == UNKNOWN:
        row, column = np.argwhere(categories == UNKNOWN)[0]
        what = f"value {values[row, column]} at row {row}, column {column} is neither stuff nor void"
        raise UserError(path, what, f"list it in --stuff or --void, or write --void {REST}")
    return categories


def draw_objects(annotations: Annotations, image: int, overlap: str) -> np.ndarray:
    """Draw the objects of an image, as segment ids 1, 2, .. in their order: int32 [H, W], 0 where there is none."""
    rows, size = annotations.rows(image), annotations.size(image)
    masks = decode(annotations.rles(rows) or [], size)
    areas = masks.sum(axis=(1, 2)) if overlap == "smaller" else np.zeros(len(rows))
    ids = np.zeros(size, np.int32)
    for index in np.lexsort((-areas, ~annotations.crowd[rows])):  # crowds first, then by size, then as in the file
        ids[masks[index]] = index + 1
    return ids


def fill_stuff(ids: np.ndarray, stuff_map: np.ndarray, last_id: int) -> tuple[np.ndarray, list[int]]:
    """Add stuff to `ids` [H, W] where they are 0, as segments numbered from `last_id` + 1.

    Return the new ids, and the category ids of the new segments.
    """
    categories, indices = unique_ids(np.where(ids == 0, stuff_map, VOID))
    segment_ids = np.zeros(len(categories), np.int32)
    segment_ids[categories != VOID] = last_id + 1 + np.arange((categories != VOID).sum())
    return ids + segment_ids[indices], categories[categories != VOID].tolist()


def describe(ids: np.ndarray, kinds: list[tuple[int, bool]]) -> list[dict[str, Any]]:
    """The `segments_info` of the ids 1, 2, .. that occur in `ids` [H, W]. kinds: (category id, crowd) of each id."""
    segments = []
    for number, (category_id, crowd) in enumerate(kinds, start=1):
        mask = (ids == number).astype(np.uint8)
        if area := int(mask.sum()):
            box = list(cv2.boundingRect(mask))
            entry = {"id": number, "category_id": category_id, "iscrowd": int(crowd), "area": area, "bbox": box}
            segments.append(entry)
    return segments


def _write(
    out: Path, annotations: Annotations, records: list[dict[str, Any]], things: dict[int, str], stuff: dict[int, str]
) -> None:
    sizes, names = annotations.sizes.tolist(), annotations.names
    content = {
        "images": [
            {"id": record["image_id"], "file_name": names[image], "height": sizes[image][0], "width": sizes[image][1]}
            for image, record in enumerate(records)
        ],
        "annotations": records,
        "categories": [
            *({"id": number, "name": name, "isthing": 1} for number, name in things.items()),
            *({"id": number, "name": name, "isthing": 0} for number, name in stuff.items()),
        ],
    }
    new = out.with_name(f"{out.name}.new")
    new.write_text(json.dumps(content))
    os.replace(new, out)


if __name__ == "__main__":
    run_command(main)
