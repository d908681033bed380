"""Write depth in NYU's form: images/ and depths/ of each split, 16-bit PNGs."""

import math
import os
from typing import Any

import cv2
import numpy as np

from datasets.nyu.depth_maps import SATURATED
from errors import UserError
from tools.import_data.readers.depth import farthest, read_depth
from tools.import_data.record import Report, Source
from tools.import_data.writers.place import Placer, new_names

SCALES = (1000.0, 256.0, 100.0, 10.0)  # units per metre: the finest that holds the farthest distance is taken


def write(source: Source, placer: Placer, report: Report) -> dict[str, Any]:
    """Link 16-bit PNGs, convert all else. Returns the settings of `data`. Raises UserError."""
    limits, resized = [], False
    for item in source.items:
        assert item.labels is not None
        values = read_depth(item.labels)
        limits.append(farthest(values) / source.depth_scale)
        resized |= values.shape != item.size
    farthest_of_all = max(limits)
    if farthest_of_all == 0:
        raise UserError("depth", "no map has a measured pixel", "check the files: 0 and NaN stand for none")
    scale = source.depth_scale
    if not source.as_stored:
        scale = next((scale for scale in SCALES if farthest_of_all * scale < SATURATED), 0)
        if not scale:
            what = f"reaches {farthest_of_all:.0f} m, more than 16 bits can hold"
            raise UserError("depth", what, "give --depth-scale, the units of the files per metre")
    for item, name in zip(source.items, new_names(source.items), strict=True):
        assert item.labels is not None
        placer.image(item, f"images/{item.split}/{name}")
        target = f"depths/{item.split}/{os.path.splitext(name)[0]}.png"
        if source.as_stored:
            placer.place(item.labels, target)
        else:
            metres = read_depth(item.labels).astype(np.float64) / source.depth_scale
            values = np.rint(metres * scale)
            values[values >= SATURATED] = 0  # farther than all but a thousandth: not measured
            placer.write(target, cv2.imencode(".png", values.astype(np.uint16))[1].tobytes())
    limit = _round_up(farthest_of_all)
    report.note(f"depths of up to {limit:g} m are learnt and scored (data.max_depth)")
    data = {f"{split}_{kind}": f"{kind}/{split}" for split in ("train", "val") for kind in ("images", "depths")}
    return {**data, "depth_scale": scale, "max_depth": limit, "resize_depth": bool(resized)}


def _round_up(value: float) -> float:
    """The value, rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 6)
