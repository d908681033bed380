"""Pascal VOC: an XML file of boxes for each image. (`SegmentationClass` is read as label maps.)

Official files count pixels from 1 and include the last one. Exporters (CVAT, labelImg, Roboflow) often count from 0; a
coordinate of 0 or with a fraction anywhere tells. Difficult objects are neither learnt nor scored, as in VOC.
"""

from pathlib import PurePosixPath
from xml.etree import ElementTree

from errors import UserError
from tools.import_data.options import Options, check_object, source_of_objects
from tools.import_data.readers import maps
from tools.import_data.record import SPLIT_WORDS, Item, Object, Source, SplitName, split_of
from tools.import_data.source_files import NotFoundError, read_lines, walk

Corners = tuple[float, float, float, float]


def read(options: Options) -> Source:
    """Read a folder such as VOCdevkit/VOC2012: its boxes, or with `--task seg` its label maps. Raises UserError."""
    files = [path for path in walk(options.root) if path.lower().endswith(".xml")]
    has_maps = any("SegmentationClass" in path.split("/") for path in walk(options.root))
    if options.task == "seg" or (has_maps and not files):
        return maps.read_voc(options, lists(options, "Segmentation"))
    if has_maps:
        options.report.note("SegmentationClass is there, too: the boxes are imported (--task seg: the label maps)")
    if not files:
        raise UserError(options.source, "has no XML file", "name the folder with Annotations and JPEGImages")
    splits = lists(options, "Main")
    found = []
    for path in files:
        try:
            found.append((path, ElementTree.fromstring((options.root / path).read_bytes())))
        except (ElementTree.ParseError, OSError, ValueError) as error:
            options.report.drop("XML file that cannot be read", f"{path}: {error}")
    found = [(path, root) for path, root in found if root.tag == "annotation"]
    starts_at_one = _starts_at_one([root for _, root in found]) if options.pixel_one is None else options.pixel_one
    first = "1, the last one included" if starts_at_one else "0"
    options.report.note(f"boxes count pixels from {first} (--first-pixel decides otherwise)")
    items: list[Item] = []
    classes: set[str] = set()
    for path, root in found:
        item = _item(options, path, root, 1 if starts_at_one else 0)
        if item is not None:
            item.split = splits.get(PurePosixPath(path).stem, None if splits else split_of(path))
            if splits and item.split is None:
                options.report.drop("image in no list of ImageSets", item.name)
                continue
            items.append(item)
            classes.update(one.label for one in item.objects)
    return source_of_objects(options, items, options.names or sorted(classes))


def lists(options: Options, kind: str) -> dict[str, SplitName]:
    """The split of each stem that train.txt, val.txt or test.txt of ImageSets/KIND names; {}: there are none."""
    splits: dict[str, SplitName] = {}
    for path in walk(options.root):
        pure = PurePosixPath(path)
        if pure.parent.name == kind and pure.suffix == ".txt" and pure.stem.lower() in SPLIT_WORDS:
            for line in read_lines(options.root / path):
                splits.setdefault(line.split()[0], SPLIT_WORDS[pure.stem.lower()])
    return splits


def _starts_at_one(roots: list[ElementTree.Element]) -> bool:
    texts = [text for root in roots for box in root.iter("bndbox") for text in (_text(box, name) for name in NAMES)]
    numbers = [float(text) for text in texts if _is_number(text)]
    return all(number >= 1 and number.is_integer() for number in numbers)


NAMES = ("xmin", "ymin", "xmax", "ymax")


def _item(options: Options, path: str, root: ElementTree.Element, first: int) -> Item | None:
    stem = PurePosixPath(path).stem
    name = _text(root, "filename")
    try:
        options.images.find(name, path)
    except NotFoundError:
        name = stem  # files are often renamed, but their XML file with them
    located = options.item(name, path, f"{_text(root, 'filename') or stem} of {path}")
    if located is None:
        return None
    item, seen = located
    height, width = _text(root, "size/height"), _text(root, "size/width")
    stated = (int(float(height)), int(float(width))) if _is_number(height) and _is_number(width) else None
    stated = None if stated == (0, 0) else stated  # some tools write zeros
    size = stated or options.labelled_size(seen)
    objects = []
    for number, record in enumerate(root.iter("object"), start=1):
        label, texts = _text(record, "name"), [_text(record, f"bndbox/{name}") for name in NAMES]
        where = f"object {number} of {path}"
        if not label or not all(map(_is_number, texts)):
            options.report.drop("object without name or box", where)
            continue
        left, top, right, bottom = map(float, texts)
        left, top = max(left - first, 0), max(top - first, 0)
        right, bottom = min(right, size[1]), min(bottom, size[0])
        if right <= left or bottom <= top:
            options.report.drop("object whose box is empty or outside the image", where)
            continue
        crowd = _text(record, "difficult") in ("1", "true", "True")
        if crowd:
            options.report.note("difficult objects, which are neither learnt nor scored", where)
        one = Object(label, (left, top, right - left, bottom - top), crowd=crowd)
        check_object(one, size)
        objects.append(one)
    return item if options.place(item, seen, stated, objects) else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
