"""Everything that a run must remember to go on as if it had never stopped."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from config import Schema, dump
from errors import UserError
from runtime.checkpoint import Checkpoints


class TrainingState:
    """The moving parts of a run. step: optimiser steps done. evaluated: the last step that was scored.

    Random state is not among them: every step seeds itself (`seed_step`) and every sample has its own key.
    """

    def __init__(
        self,
        config: Schema,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        averaged: AveragedModel | None,
    ) -> None:
        self.config, self.model, self.optimizer = dump(config), model, optimizer
        self.scaler, self.averaged = scaler, averaged
        self.step = 0
        self.evaluated = 0
        self.best: dict[str, Any] = {}  # {"metric", "value", "step"}

    def resume(self, checkpoints: Checkpoints) -> bool:
        """Take over the newest checkpoint, if there is one. Raises UserError if it does not fit."""
        found = checkpoints.load()
        if found is None:
            return False
        saved, path = found
        if saved["config"]["model"] != self.config["model"]:
            raise UserError(path, "is a checkpoint of another model", "choose another run_name, or remove it")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(saved["ema"])
            self.averaged.n_averaged.fill_(saved["ema_updates"])
        self.step, self.evaluated, self.best = saved["step"], saved["evaluated"], saved["best"]
        return True

    def content(self) -> dict[str, Any]:
        """The checkpoint: tensors and plain values only."""
        return {
            "config": self.config,
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.averaged is None else self.averaged.module.state_dict(),
            "ema_updates": 0 if self.averaged is None else int(self.averaged.n_averaged),
        }

    def scored(self, metric: str, value: float, lower_is_better: bool) -> bool:
        """Note the score of the current step; whether it is the best so far. NaN only until there is a number."""
        self.evaluated = self.step
        better = (
            not self.best
            or math.isnan(self.best["value"])
            or (value < self.best["value"] if lower_is_better else value > self.best["value"])
        )
        if better:
            self.best = {"metric": metric, "value": value, "step": self.step}
        return better


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed PyTorch's generators for one step of one process, so that dropout needs no saved state."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))
