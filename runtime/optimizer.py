"""Optimisers with per-parameter rules."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from config import Rate, Schema
from errors import UserError


class ParameterRule(Schema):
    """Settings of all parameters whose dotted name contains `match`. The first rule that matches is used."""

    match: Annotated[str, Field(min_length=1)]
    lr_scale: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat | None = None


class _OptimizerConfig(Schema):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    rules: tuple[ParameterRule, ...] = ()
    # Scale `lr` by batch_size / lr_batch_size (linear scaling). None: use `lr` for any batch size.
    lr_batch_size: PositiveInt | None = None

    def learning_rate(self, batch_size: int) -> float:
        """The base learning rate for a total batch of `batch_size` images."""
        return self.lr * batch_size / self.lr_batch_size if self.lr_batch_size else self.lr

    def groups(self, model: nn.Module, batch_size: int) -> list[dict[str, Any]]:
        """One parameter group for each rule, the last for all other parameters. Raises UserError for an unused rule."""
        rules = (*self.rules, ParameterRule(match="the rest"))
        members: list[list[nn.Parameter]] = [[] for _ in rules]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                matches = [index for index, rule in enumerate(self.rules) if rule.match in name]
                members[matches[0] if matches else -1].append(parameter)
        for rule, parameters in zip(self.rules, members, strict=False):
            if not parameters:
                raise UserError("optimizer.rules", f"no parameter is left for match: {rule.match}", "correct the match")
        return [
            {
                "params": parameters,
                "lr": self.learning_rate(batch_size) * rule.lr_scale,
                "weight_decay": self.weight_decay if rule.weight_decay is None else rule.weight_decay,
            }
            for rule, parameters in zip(rules, members, strict=True)
            if parameters
        ]


class AdamWConfig(_OptimizerConfig):
    """AdamW (Loshchilov & Hutter, ICLR 2019)."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Rate, Rate] = (0.9, 0.999)

    def build(self, model: nn.Module, batch_size: int) -> Optimizer:
        """The optimiser of all trainable parameters of `model`."""
        return torch.optim.AdamW(self.groups(model, batch_size), betas=self.betas, fused=True)


class SGDConfig(_OptimizerConfig):
    """SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: NonNegativeFloat = 0.9

    def build(self, model: nn.Module, batch_size: int) -> Optimizer:
        """The optimiser of all trainable parameters of `model`."""
        optimizer = torch.optim.SGD(self.groups(model, batch_size), momentum=self.momentum, fused=True)
        if self.momentum:
            # The optimiser itself would leave the momentum uninitialised if its first step is skipped (PyTorch 2.14).
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


def moving_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """The exponential moving average of the weights of `model`, which `update_parameters` continues; None if off."""
    return None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


OptimizerConfig = Annotated[AdamWConfig | SGDConfig, Field(discriminator="name")]
