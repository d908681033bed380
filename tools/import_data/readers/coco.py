"""COCO files as exporters write them: CVAT, Roboflow (a file in each split's folder), Labelme, Label Studio.

Ids, areas, boxes and crowds stay as they are.
"""

from typing import Any

from datasets.coco.values import flag_of, id_number, is_number
from errors import UserError
from structures import Size
from tools.import_data.options import Options, check_object, source_of_objects
from tools.import_data.readers import panoptic
from tools.import_data.record import Item, Object, Source, SplitName, file_split, split_of
from tools.import_data.shapes import box_of, segmentation_of
from tools.import_data.source_files import Look, read_json, walk


def read(options: Options) -> Source:
    """Read a JSON file, or all in a folder. Raises UserError."""
    files = [options.source.name] if options.source.is_file() else list(walk(options.root))
    contents = {path: read_json(options.root / path) for path in files if path.lower().endswith(".json")}
    contents = {path: content for path, content in contents.items() if _is_coco(content)}
    if not contents:
        what = "has no JSON file with images, annotations and categories"
        raise UserError(options.source, what, "name the exported file or its folder, or another --from")
    of_segments = {path: content for path, content in contents.items() if panoptic.is_panoptic(content)}
    contents = {path: content for path, content in contents.items() if path not in of_segments}
    if of_segments and (options.task == "pan" or (options.task is None and not contents)):
        for path in contents:
            options.report.drop("JSON file without segments_info", path)
        return panoptic.read(options, of_segments, _classes(options, of_segments))
    if not contents:
        raise UserError(f"--task {options.task}", "all annotations are panoptic", "leave it out")
    for path in of_segments:
        options.report.drop("panoptic JSON file (--task pan imports it)", path)
    classes = _classes(options, contents)
    items: list[Item] = []
    for path, content in contents.items():
        items += _items(options, path, content, file_split(path))
    return source_of_objects(options, items, classes)


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def _classes(options: Options, contents: dict[str, Any]) -> dict[int, str]:
    """Name by id, as in the files if they agree, else numbered anew."""
    pairs: dict[str, int] = {}
    agreed: dict[int, str] = {}
    agree = True
    for path, content in contents.items():
        used = {id_number(one.get("category_id")) for one in content["annotations"] if isinstance(one, dict)}
        if panoptic.is_panoptic(content):
            used = panoptic.category_ids(content)
        parents = {one.get("supercategory") for one in content["categories"] if isinstance(one, dict)}
        for record in content["categories"]:
            number = id_number(record.get("id")) if isinstance(record, dict) else None
            name = record.get("name") if isinstance(record, dict) else None
            if number is None or not isinstance(name, str) or not name:
                options.report.drop("category without id or name", f"{record} of {path}")
                continue
            if number not in used and name in parents:  # Roboflow's root of all categories
                options.report.drop("category without objects that is the parent of others", name)
                continue
            agree &= agreed.setdefault(number, name) == name and pairs.setdefault(name, number) == number
    names = list(dict.fromkeys(name for _, name in sorted(agreed.items()))) + [
        n for n in pairs if n not in agreed.values()
    ]
    if agree:
        return agreed
    options.report.note("the files give one category several ids: the ids are numbered anew")
    return dict(enumerate(dict.fromkeys(names), start=1))


def _items(options: Options, path: str, content: dict[str, Any], split: SplitName | None) -> list[Item]:
    report, names = options.report, {}
    for record in content["categories"]:
        if isinstance(record, dict):
            names[id_number(record.get("id"))] = record.get("name")
    by_image: dict[int | None, list[dict[str, Any]]] = {}
    for record in content["annotations"]:
        if isinstance(record, dict):
            by_image.setdefault(id_number(record.get("image_id")), []).append(record)
    items, known = [], set()
    for record in content["images"]:
        number = id_number(record.get("id")) if isinstance(record, dict) else None
        name = record.get("file_name") if isinstance(record, dict) else None
        if number is None or not isinstance(name, str):
            report.drop("image entry without id or file_name", f"{record} of {path}")
            continue
        known.add(number)
        located = options.item(name, path, name)
        if located is None:
            continue
        item, seen = located
        height, width = record.get("height"), record.get("width")
        stated = (int(height), int(width)) if is_number(height) and is_number(width) else None
        size = stated or options.labelled_size(seen)
        item.id, item.split = number, split or split_of(item.name)
        objects = [one for entry in by_image.get(number, ()) if (one := _object(options, entry, names, size, seen))]
        if options.place(item, seen, stated, objects):
            items.append(item)
    for number, entries in by_image.items():
        for entry in entries if number not in known else ():
            report.drop("annotation of an image that is not listed", f"annotation {entry.get('id')} of {path}")
    return items


def _object(options: Options, entry: dict[str, Any], names: dict[Any, Any], size: Size, seen: Look) -> Object | None:
    where = f"annotation {entry.get('id')} of image {entry.get('image_id')}"
    label = names.get(id_number(entry.get("category_id")))
    if not isinstance(label, str):
        options.report.drop("annotation of a category that is not listed", where)
        return None
    outline = None
    try:
        outline = segmentation_of(entry.get("segmentation"), size)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        options.report.note(f"annotations whose outline is left out ({error})", where)
    box = entry.get("bbox")
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        box = None if outline is None else box_of(outline, size)
    if box is None:
        options.report.drop("annotation without box and outline", where)
        return None
    area = entry.get("area")
    try:
        one = Object(label, tuple(box), outline, bool(flag_of(entry, "iscrowd")), id_number(entry.get("id")))
        check_object(one, size)
    except ValueError as error:
        options.report.drop(f"annotation: {error}", where)
        return None
    one.area = area if is_number(area) else None
    return one
