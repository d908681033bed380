"""Which settings may change when a run is resumed. The line is drawn by what a setting does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from config import Schema, dump, validate
from errors import UserError

# These change nothing that is learnt or scored, except by rounding.
FREE = frozenset(
    {
        *(
            f"system.{name}"
            for name in ("device", "backend", "workers", "channels_last", "compile", "reuse_memory", "deterministic")
        ),
        *("logging", "output_dir", "evaluation.batch_size", "evaluation.every", "evaluation.pictures"),
    }
)
# Where files lie. The images are compared when the run resumes (`TrainingState`).
PLACES = frozenset(
    f"data.{name}"
    for name in (
        "root",
        *(f"{split}_{kind}" for split in ("train", "val") for kind in ("images", "annotations", "segments", "depths")),
        *("train_instances", "train_list", "val_list", "image_suffix", "label_suffix"),
    )
)
SCORES = frozenset({"metrics", "evaluation.best", "evaluation.inference", "data.test_transforms"})


@dataclass(frozen=True)
class Change:
    """A setting that differs from the one the run was started with. key: dotted."""

    key: str
    old: Any
    new: Any

    @property
    def note(self) -> str | None:
        """What the change does, if the run may go on with it; None if it may not."""
        if self.key == "steps":
            return "from here on the learning rate follows the schedule of that many steps"
        if self.key == "evaluation.patience":
            return "from here on the run ends after that many evaluations without a new best number"
        if self.key == "system.max_per_process":
            return "there must be as many accumulation rounds as before"
        if self.key in PLACES:
            return "the files there must be the same"
        if self.key.startswith("model.") and self.key.rpartition(".")[2] in ("weights", "weights_exclude"):
            return "without effect, since the run goes on from its checkpoint"
        return None

    @property
    def reason(self) -> str:
        """Why the run may not go on with it."""
        scores = any(self.key == name or self.key.startswith(f"{name}.") for name in SCORES)
        return "its scores would not compare" if scores else "it would learn something else"

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new} ({self.note or self.reason})"


def changes(saved: Mapping[str, Any], settings: Schema) -> list[Change]:
    """How `settings` differ from `saved`, a dump of such settings. Keys in FREE are left out.

    A setting that `saved` does not have, because an older version wrote it, counts as its default.
    """
    try:
        saved = dump(validate(type(settings), saved, "saved settings"))
    except UserError:  # written by a version with other settings: compare what is there
        saved = dict(saved)
    return _differences(saved, dump(settings))


def _differences(old: Any, new: Any, key: str = "") -> list[Change]:
    if key in FREE or old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [
            change
            for name in names
            for change in _differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [Change(key, old, new)]
