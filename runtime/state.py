"""The state of a run: everything that a checkpoint needs so that the run can resume as if it had not stopped."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from config import Schema, dump
from errors import UserError
from runtime.changes import changes
from runtime.checkpoint import Checkpoints, check_content
from storage import check_state

_ADVICE = {
    "accumulation rounds": "start as many processes as before, or set system.max_per_process so that the rounds are as "
    "many: batch statistics and means over objects are computed in each round"
}
DIVERGED = "start another run_name with a lower optimizer.lr, a gradient_clip, or precision=fp32"


class TrainingState:
    """What changes during a run. step: number of optimiser steps done. evaluated: the last step evaluated.
    out_of_patience: whether the run ends early, since `evaluation.patience` evaluations brought no new best score.

    There is no random state: every step has its own seed (`Processes.seed_step`), and so has every sample.
    ema: the moving average of the model, or None. fixed: facts beside the settings that must be the same when the run
    resumes, by name, such as the number of accumulation rounds.
    """

    def __init__(
        self,
        settings: Schema,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        ema: AveragedModel | None,
        fixed: Mapping[str, object],
    ) -> None:
        self.settings, self.config, self.model, self.optimizer = settings, dump(settings), model, optimizer
        self.scaler, self.ema, self.fixed = scaler, ema, fixed
        self.step = 0
        self.evaluated = 0
        self.best: dict[str, Any] = {}  # {"metric", "value", "step"}
        self.out_of_patience = False
        self._since_best = 0  # evaluations

    def resume(self, checkpoints: Checkpoints) -> bool:
        """Load the newest checkpoint. Return whether there is one. Raises UserError if it does not fit this run."""
        found = checkpoints.load()
        if found is None:
            return False
        saved, path = found
        check_content(saved, path)
        self._check_continues(saved, path)
        try:
            self._restore(saved, path)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = f"does not fit this run ({type(error).__name__}: {error})"
            raise UserError(path, what, "choose another run_name, or remove it") from None
        return True

    def _check_continues(self, saved: dict[str, Any], path: Path) -> None:
        """Raise UserError unless this run goes on where the one that saved the checkpoint stopped."""
        changed = changes(saved["config"], self.settings)
        if any(change.key.startswith("model") and change.note is None for change in changed):
            raise UserError(path, "is a checkpoint of another model", "choose another run_name, or remove it")
        before = saved.get("fixed", {})
        for name, value in self.fixed.items():
            if before.get(name, value) != value:  # checkpoints of older versions lack some
                what = f"the run was started with {name} {before[name]}, and now it has {value}"
                raise UserError(path, what, _ADVICE.get(name, "choose another run_name, or name the same data"))

    def _restore(self, saved: dict[str, Any], path: Path) -> None:
        check_state(self.model.state_dict(), saved["model"], path)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for parameter, values in self.optimizer.state.items():
            if any(value.shape not in (parameter.shape, ()) for value in values.values() if value is not None):
                raise ValueError("the optimiser's state has other shapes than the model")
        if saved["scaler"].keys() != self.scaler.state_dict().keys():  # a disabled scaler would load anything
            raise ValueError("the state of the loss scaler is of another precision")
        self.scaler.load_state_dict(saved["scaler"])
        if self.ema is not None:
            check_state(self.ema.module.state_dict(), saved["ema"], path)
            self.ema.module.load_state_dict(saved["ema"])
            self.ema.n_averaged.fill_(saved["ema_updates"])
        self.step, self.evaluated, self.best = saved["step"], saved["evaluated"], saved["best"]
        self._count_since_best(saved.get("evaluations_since_best", 0))  # older versions have none
        last = max(saved["config"]["steps"], self.config["steps"])  # it may have been asked to do more than it is now
        if not 0 <= self._since_best <= self.evaluated <= self.step <= last or (
            self.best and self.best.keys() != {"metric", "value", "step"}
        ):
            raise ValueError("its step or its best score is impossible")

    def to_checkpoint(self) -> dict[str, Any]:
        """The content of a checkpoint: tensors and plain values only. Raises UserError if a weight is not finite.

        This must be checked here: the loss of a step depends on the weights before that step, not after it.
        """
        self._refuse_non_finite()
        return {
            "config": self.config,
            "fixed": dict(self.fixed),
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "evaluations_since_best": self._since_best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "ema_updates": 0 if self.ema is None else int(self.ema.n_averaged),
        }

    def record_score(self, metric: str, value: float, lower_is_better: bool) -> bool:
        """Record the score of the current step. Return whether it is the best. NaN is best only while all are NaN."""
        self.evaluated = self.step
        better = (
            not self.best
            or self.best["metric"] != metric  # as older versions chose masks by their boxes
            or math.isnan(self.best["value"])
            or (value < self.best["value"] if lower_is_better else value > self.best["value"])
        )
        if better:
            self.best = {"metric": metric, "value": value, "step": self.step}
        self._count_since_best(0 if better else self._since_best + 1)
        return better

    def _count_since_best(self, evaluations: int) -> None:
        patience = self.config["evaluation"]["patience"]
        self._since_best, self.out_of_patience = evaluations, patience is not None and evaluations >= patience

    def _refuse_non_finite(self) -> None:
        weights: dict[str, Tensor] = dict(self.model.named_parameters())
        if self.ema is not None:
            weights |= {f"average of {name}": value for name, value in self.ema.module.named_parameters()}
        for index, values in self.optimizer.state_dict()["state"].items():
            moments = {name: value for name, value in values.items() if isinstance(value, Tensor)}
            weights |= {f"{name} of optimizer state {index}": value for name, value in moments.items()}
        if get_total_norm(weights.values(), norm_type=math.inf).isfinite():
            return
        names = [name for name, value in weights.items() if not value.isfinite().all()]
        listed = f"{', '.join(names[:3])}, .."
        what = f"{len(names)} of {len(weights)} tensors of weights are not finite after this step ({listed})"
        raise UserError(f"step {self.step}", what, DIVERGED)
