"""Label maps: image and mask pairs in any of the usual trees, Cityscapes-like trees, VOC's SegmentationClass.

Masks hold values (grey or palette PNG) or colours. Every mask is read once, for the values that it holds.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.files.images import read_label_map
from datasets.files.levels import TURNS
from datasets.files.png import voc_colours
from datasets.files.reading import read_bytes, read_header, reporting_damage
from errors import UserError
from tools.import_data.options import Options
from tools.import_data.pairing import LABEL_WORDS, find_pairs
from tools.import_data.record import Item, Report, Source, SplitName, Table, split_of
from tools.import_data.source_files import Look, NotFoundError, look, walk
from tools.import_data.tables import BORDER, CITYSCAPES, CITYSCAPES_IGNORED, VOC, read_classes

SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif", ".npy"})
MOST_COLOURS = 256
TABLE_FILES = ("labelmap.txt", "class_dict.csv")  # of CVAT and of CamVid
Keys = Counter[int | tuple[int, int, int]]
TableMaker = Callable[[Options, Keys], Table]


def read(options: Options, image_end: str, label_end: str) -> Source:
    """Read pairs of images and masks. Raises UserError."""
    return _read(options, image_end, label_end, {}, _own_table)


def read_cityscapes(options: Options, image_end: str, label_end: str) -> Source:
    """Read a tree as of Cityscapes; without `--classes` its table of values. Raises UserError."""
    if not label_end:
        paths = list(walk(options.root))
        official = any(path.endswith("_gtFine_labelIds.png") for path in paths)
        label_end = "_gtFine_labelIds" if official else ""
        image_end = image_end or ("_leftImg8bit" if any("_leftImg8bit." in path for path in paths) else "")
    is_official = label_end.startswith("_gtFine_labelIds")
    return _read(options, image_end, label_end, {}, _cityscapes_table if is_official else _own_table)


def read_voc(options: Options, splits: dict[str, SplitName]) -> Source:
    """Read JPEGImages and SegmentationClass. splits: of each stem. Raises UserError."""
    if not any(part.name == "SegmentationClass" for part in options.root.rglob("SegmentationClass")):
        raise UserError(options.source, "has no folder SegmentationClass", "leave out --task seg, or name its parent")
    return _read(options, "", "", splits, _voc_table)


def read_map(path: Path) -> np.ndarray:
    """The values of a mask [H, W], or its colours, uint8 [H, W, 3]. A grey picture in three channels is values.

    Raises UserError.
    """
    if path.suffix.lower() == ".npy":
        values = _load_array(path)
        if (
            values.ndim != 2
            or values.dtype.kind not in "iub"
            or (values.size and not 0 <= values.min() <= values.max() < 2**16)
        ):
            raise UserError(
                path, f"holds {values.dtype} {values.shape}, not one class from 0 a pixel", "export integers"
            )
        return values.astype(np.uint16)
    header = read_header(path, read_bytes(path))
    if header.format == "PNG" and header.mode in ("1", "L", "P", "I", "I;16"):
        return read_label_map(path)
    with reporting_damage(path):
        if header.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
            return np.asarray(header).astype(np.uint16)
        colours = np.asarray(header.convert("RGB"))
    return colours[..., 0] if (colours == colours[..., :1]).all() else colours


def turned(values: np.ndarray, seen: Look) -> np.ndarray | None:
    """A map of the stored image as displayed, a map of the displayed one as it is; None: it has another size."""
    if values.shape[:2] == seen.size:
        return values
    if values.shape[:2] != seen.stored:
        return None
    kind = values.astype(np.int32) if values.ndim == 2 else values
    return np.asarray(Image.fromarray(kind).transpose(TURNS[seen.orientation])).astype(values.dtype)


def _load_array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(path, f"is not a readable array ({error})", "save it with numpy.save") from None
    return np.squeeze(values)


def _read(
    options: Options, image_end: str, label_end: str, splits: dict[str, SplitName], make_table: TableMaker
) -> Source:
    report = options.report
    pairs, label_end = find_pairs(options, LABEL_WORDS, SUFFIXES, image_end, label_end)
    keys: Keys = Counter()
    items: list[Item] = []
    as_stored = True
    for image, label in pairs:
        path = options.root / label
        try:
            seen = look(options.root / image)
            values = read_map(path)
        except (NotFoundError, UserError) as error:
            reason = str(error) if isinstance(error, NotFoundError) else "label map that cannot be read"
            report.drop(reason, image if isinstance(error, NotFoundError) else error.brief)
            continue
        as_displayed = turned(values, seen)
        if as_displayed is None:
            report.drop("image of another size than its label map", image)
            continue
        if values.shape[:2] != seen.size:
            as_stored = False
            report.note("images turned by EXIF, whose label maps belonged to the stored form and were turned", image)
        elif seen.orientation != 1:
            report.note("images turned by EXIF, whose label maps are taken to belong to them as displayed", image)
        split = splits.get(Path(image).stem) if splits else split_of(image) or split_of(label)
        if splits and split is None:
            report.drop("image in no list of ImageSets", image)
            continue
        as_stored &= values.ndim == 2 and path.suffix.lower() == ".png" and _is_single_channel(path)
        keys.update(_keys(values, path, keys))
        items.append(Item(options.root / image, image, seen.size, split, labels=path))
    if not items:
        raise UserError(options.source, f"no pair can be used ({'; '.join(report.lines())})", "correct the files")
    table = make_table(options, keys)
    _note_ignored(report, table, keys)
    return Source("seg", items, table=table, as_stored=as_stored, image_end=image_end, label_end=label_end)


def _is_single_channel(path: Path) -> bool:
    with Image.open(path) as header:
        return header.mode in ("1", "L", "P", "I", "I;16")


def _keys(values: np.ndarray, path: Path, known: Keys) -> Keys:
    """How many pixels have each value or colour. Raises UserError if there are too many."""
    if values.ndim == 2:
        numbers, counts = np.unique(values, return_counts=True)
        return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    packed = values.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    codes, counts = np.unique(packed, return_counts=True)
    if len(codes) > MOST_COLOURS or len(known) > MOST_COLOURS:
        what = f"has more than {MOST_COLOURS} colours, as after JPEG compression or smoothing"
        raise UserError(path, what, "export masks as PNG without smoothing, or name the folders with --labels")
    colours = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    return Counter(dict(zip(colours, counts.tolist(), strict=True)))


def _own_table(options: Options, keys: Keys) -> Table:
    """The table that `--classes` gives, or else one that names the values or colours by themselves."""
    values = sorted(key for key in keys if isinstance(key, int))
    colours = sorted(key for key in keys if not isinstance(key, int))
    if colours and values:  # pictures of colours of which some happen to be grey
        colours += [(value, value, value) for value in values if (value, value, value) not in keys]
        values = []
    if options.table is not None:
        if options.table.has_colours != bool(colours):
            what = "holds colours" if options.table.has_colours else "holds values"
            raise UserError("--classes", f"{what}, but the masks do not", "give a table of what the masks hold")
        return options.table
    if colours:
        return _colour_table(options, sorted(colours))
    if options.names is not None:
        return _named(options.names, values)
    if set(values) == {0, 255}:
        return Table({0: "background", 255: "foreground"})
    options.report.note("the values of the masks have no names: they are called class_VALUE (--classes names them)")
    return Table({value: f"class_{value}" for value in values if value != 255}, {255})


def _named(names: list[str], values: list[int]) -> Table:
    counted = [value for value in values if value != 255 or len(names) > 255]
    if not counted or max(counted) < len(names):
        return Table(dict(enumerate(names)), set() if len(names) > 255 else {255})
    for chosen in (values, counted):
        if len(chosen) == len(names):
            return Table({**dict(zip(chosen, names, strict=True))}, {key for key in (255,) if key not in chosen})
    shown = ", ".join(map(str, values[:12]))
    raise UserError(
        "--classes",
        f"has {len(names)} names, but the masks hold the values {shown}",
        "write VALUE: NAME in a YAML file",
    )


def _colour_table(options: Options, colours: list[tuple[int, int, int]]) -> Table:
    palette = voc_colours()[: len(VOC)]
    ignored = {BORDER} & set(colours)
    classes = [colour for colour in colours if colour not in ignored]
    if options.names is not None:
        raise UserError("--classes", "holds names, but the masks hold colours", "write NAME: [R, G, B] in a YAML file")
    for path in walk(options.root):
        if (
            Path(path).name in TABLE_FILES
            and (found := read_classes(str(options.root / path))[1])
            and found.has_colours
        ):
            options.report.note(f"the classes of the colours are those of {path}")
            return found
    if set(classes) <= set(palette) and len(classes) > 1:
        return Table(dict(zip(palette, VOC, strict=True)), {BORDER})
    options.report.note(
        "the colours of the masks have no names: they are called by their digits (--classes names them)"
    )
    return Table({(r, g, b): f"colour_{r:02x}{g:02x}{b:02x}" for r, g, b in classes}, set(ignored))


def _cityscapes_table(options: Options, keys: Keys) -> Table:
    if options.table is None and options.names is None:
        classes: dict[int | tuple[int, int, int], str] = {}
        classes.update(CITYSCAPES.items())
        return Table(classes, {*CITYSCAPES_IGNORED})
    return _own_table(options, keys)


def _voc_table(options: Options, keys: Keys) -> Table:
    """The 21 classes of VOC, the colours of labelmap.txt (CVAT), or `--classes`."""
    is_official = all(isinstance(key, int) and (key < len(VOC) or key == 255) for key in keys)
    if options.table is None and options.names is None and is_official:
        classes: dict[int | tuple[int, int, int], str] = {}
        classes.update(enumerate(VOC))
        return Table(classes, {255})
    return _own_table(options, keys)


def _note_ignored(report: Report, table: Table, keys: Keys) -> None:
    """Ignore values and colours without a class, and say so."""
    total = sum(keys.values())
    found = {
        (key if not table.has_colours or not isinstance(key, int) else (key, key, key)): n for key, n in keys.items()
    }
    if not found.keys() & table.classes.keys():
        shown = ", ".join(map(str, list(found)[:8]))
        raise UserError(
            "--classes", f"no mask has one of its values or colours; they hold {shown}", "correct the table"
        )
    for key, count in found.items():
        if key not in table.classes and key not in table.ignored:
            table.ignored.add(key)
            report.note(f"pixels of {key} have no class and are ignored ({100 * count / total:.2g} % of all)")
