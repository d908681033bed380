"""Write the YAML file that trains on the imported data."""

import re
from pathlib import Path
from typing import Any

import yaml

from tools.import_data.record import Item, Task

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
IMAGES_SEEN = {
    "seg": 40_000,
    "det": 24_000,
    "inst": 24_000,
    "pan": 24_000,
    "depth": 40_000,
}  # in a whole run, within EPOCHS
EPOCHS = (12, 200)
BATCH = {"seg": 8, "det": 4, "inst": 4, "pan": 4, "depth": 8}  # of the bases
LARGE = 800  # pixels; depth maps with a longer side are shrunk to 640 x 480


def text(task: Task, out: Path, data: dict[str, Any], items: list[Item], command: str) -> str:
    """The text of config.yaml."""
    images = sum(item.split == "train" for item in items)
    epochs = min(max(round(IMAGES_SEEN[task] / images), EPOCHS[0]), EPOCHS[1])
    content: dict[str, Any] = {
        "base": str(CONFIGS / f"finetune_{task}.yaml"),
        "run_name": re.sub(r"[^\w.+-]|^\W", "_", out.resolve().name) or "own",
        "data": {"root": str(out.resolve()), **data},
        "steps": f"{epochs} epochs",
    }
    if images < BATCH[task]:
        content["batch_size"] = images
    if task == "depth" and max(max(item.size) for item in items) > LARGE:
        fit = {"name": "resize_fit", "long": 640, "short": 480}
        crop = {"name": "random_crop", "size": [416, 544]}
        content["data"]["train_transforms"] = [fit, "random_flip", crop, "gamma_jitter", "normalize"]
        content["data"]["test_transforms"] = [fit, "normalize"]
    kept = sum(item.split == "val" for item in items)
    head = f"# {images} training and {kept} validation images, by:\n#   {command}\n"
    head += "# Model, weights and schedule are those of its base.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
