"""Depth maps: .npy, float TIFF, EXR (with the package OpenEXR), 16-bit PNG of any scale."""

import importlib
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.nyu.depth_maps import SATURATED, read_depth_values
from errors import UserError
from tools.import_data.options import Options
from tools.import_data.pairing import DEPTH_WORDS, find_pairs
from tools.import_data.record import Item, Source, split_of
from tools.import_data.source_files import NotFoundError, look

SUFFIXES = frozenset({".png", ".npy", ".tif", ".tiff", ".exr"})
MILLIMETRES = 1000.0
CHANNELS = ("Z", "depth.Z", "Depth.Z", "Y", "depth.V", "V", "R", "RGB", "RGBA")  # of EXR, the likeliest first


def read(options: Options, image_end: str, label_end: str) -> Source:
    """Read pairs of images and depth maps. Raises UserError."""
    report = options.report
    pairs, label_end = find_pairs(options, DEPTH_WORDS, SUFFIXES, image_end, label_end)
    items, kinds, as_stored = [], set(), True
    for image, depth in pairs:
        path = options.root / depth
        try:
            seen, values = look(options.root / image), read_depth(path)
        except NotFoundError as error:
            report.drop(str(error), image)
            continue
        except UserError as error:
            if error.args[0] == "--from depth":
                raise
            report.drop("depth map that cannot be read", error.brief)
            continue
        (height, width), (h, w) = seen.size, values.shape
        if abs(np.log(w * height / (h * width))) > np.log(1.05):
            report.drop("image of another shape than its depth map", image)
            continue
        if (h, w) != (height, width):
            report.note("depth maps of another size than their image, resized in training", depth)
        kinds.add(values.dtype.kind)
        as_stored &= path.suffix.lower() == ".png"
        items.append(Item(options.root / image, image, seen.size, split_of(image) or split_of(depth), labels=path))
    if not items:
        raise UserError(options.source, f"no pair can be used ({'; '.join(report.lines())})", "correct the files")
    if len(kinds) > 1 and options.depth_scale is None:
        raise UserError(options.source, "some depth maps hold whole numbers and others do not", "give --depth-scale")
    scale = options.depth_scale or (1.0 if kinds == {"f"} else MILLIMETRES)
    if options.depth_scale is None:
        unit = "metres, since they hold fractions" if scale == 1 else "millimetres, since they hold whole numbers"
        report.note(f"depth is taken to be in {unit} (--depth-scale UNITS_PER_METRE decides otherwise)")
    return Source("depth", items, depth_scale=scale, as_stored=as_stored, image_end=image_end, label_end=label_end)


def read_depth(path: Path) -> np.ndarray:
    """The values of a depth map, [H, W], of whole numbers or floats; 0 where they are not finite or not positive.

    Raises UserError.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return read_depth_values(path)
    try:
        values = {".npy": _array, ".exr": _exr}.get(suffix, _tiff)(path)
    except (OSError, ValueError, EOFError, RuntimeError, SyntaxError) as error:
        raise UserError(path, f"is not a readable depth map ({error})", "export it again") from None
    values = np.squeeze(values)
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "iuf" or values.dtype.itemsize == 1:
        what = f"holds {values.dtype} {values.shape} where one distance per pixel is expected"
        raise UserError(path, what, "export depth in one channel of 16 bits or floats")
    return np.where(np.isfinite(values) & (values > 0), values, 0).astype(values.dtype)


def _array(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, allow_pickle=False))


def _tiff(path: Path) -> np.ndarray:
    with Image.open(path, formats=("TIFF",)) as picture:
        return np.asarray(picture)


def _exr(path: Path) -> np.ndarray:
    try:
        library = importlib.import_module("OpenEXR")
    except ImportError:
        do = "install it: pip install OpenEXR"
        raise UserError("--from depth", f"{path.name} is EXR, which needs the package OpenEXR", do) from None
    with library.File(str(path)) as file:
        channels = file.channels()
        name = next((name for name in CHANNELS if name in channels), next(iter(channels)))
        return np.array(channels[name].pixels)


def farthest(values: np.ndarray) -> float:
    """The distance, in units of the map, beyond which a thousandth of the measured pixels lie; 0: none is measured."""
    measured = values[(values > 0) & (values != SATURATED)] if values.dtype == np.uint16 else values[values > 0]
    return float(np.quantile(measured, 0.999)) if measured.size else 0.0
