"""The configuration that converted weights fit, which their file carries, so that it predicts and scores by itself."""

import json
from pathlib import Path
from typing import Any

from experiment import load_experiment
from published.converters.tensors import Converted

CONFIGS = Path(__file__).parent.parent.parent / "configs"
RECIPES = {
    "segformer": ["base/segformer_ade20k.yaml"],
    "maskformer": ["base/maskformer_ade20k.yaml", "maskformer_r50_panoptic.yaml"],
    "faster_rcnn": ["base/faster_rcnn_coco.yaml"],
    "mask_rcnn": ["base/mask_rcnn_coco.yaml"],
    "panoptic_fpn": ["base/panoptic_fpn_coco.yaml"],
    "depthformer": ["base/depthformer_nyu.yaml"],
}


def configuration(converted: Converted, cfg: Path | None) -> dict[str, Any] | None:
    """The configuration with the settings of the model, as plain values.

    cfg: the file with the classes, sizes and metrics; None: the recipe of this model with as many classes. Returns None
    for a backbone, and if no recipe has as many classes. Raises UserError if `cfg` does not fit.
    """
    if converted.settings is None:
        return None
    model = converted.settings
    backbone = model["backbone"] if isinstance(model["backbone"], dict) else {"name": model["backbone"]}
    settings = json.dumps({**model, "backbone": {**backbone, "weights": None}, "weights": None})
    for path in [CONFIGS / name for name in RECIPES[model["name"]]] if cfg is None else [cfg]:
        experiment = load_experiment(path, [f"model={settings}"])
        if cfg is not None or experiment.data.info.num_classes == converted.num_classes:
            return experiment.dump()
    return None
