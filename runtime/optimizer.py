"""Optimisers with per-parameter rules."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from config import Rate, Schema
from errors import UserError

Parts = Sequence[Sequence[str]]


class ParameterRule(Schema):
    """Settings of all parameters whose dotted name contains `match`. The first rule that matches is used."""

    match: Annotated[str, Field(min_length=1)]
    lr_scale: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat | None = None


class _OptimizerConfig(Schema):
    """Settings of every optimiser.

    lr_batch_size: scale `lr` by batch_size / lr_batch_size (linear scaling). None: use `lr` for any batch size.
    layer_decay: layer-wise learning-rate decay, as in BEiT (Bao et al., ICLR 2022). The backbone consists of its stem
    and its stages or, if it is a plain transformer, blocks. Each learns with this factor of the next one's rate, and
    the last with this factor of the rate of all else. Rules apply, too. None: 1.
    """

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    rules: tuple[ParameterRule, ...] = ()
    lr_batch_size: PositiveInt | None = None
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None

    def learning_rate(self, batch_size: int) -> float:
        """The base learning rate for a total batch of `batch_size` images."""
        return self.lr * batch_size / self.lr_batch_size if self.lr_batch_size else self.lr

    def groups(self, model: nn.Module, batch_size: int, parts: Parts = ()) -> list[dict[str, Any]]:
        """One parameter group for each rule, the last for all other parameters; of each, one for each layer.

        parts: of the backbone, as the beginnings of the names of their parameters (see `models.base.Backbone`).
        Raises UserError if layer_decay concerns no parameter.
        """
        rules = (*self.rules, ParameterRule(match="the rest"))
        members: dict[tuple[int, int], list[nn.Parameter]] = {}  # by rule and layer; the last layer is the rest
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                members.setdefault((self._rule(name), self._layer(name, parts)), []).append(parameter)
        if self.layer_decay is not None and all(layer == len(parts) for _, layer in members):
            what = "no part of the backbone is trained, or its parts cannot be told apart"
            raise UserError("optimizer.layer_decay", what, "set optimizer.layer_decay=null")
        return [
            {
                "params": members[index, layer],
                "lr": self._rate(batch_size, rules[index], len(parts) - layer),
                "weight_decay": self.weight_decay if rules[index].weight_decay is None else rules[index].weight_decay,
            }
            for index, layer in sorted(members)
        ]

    def warnings(self, model: nn.Module) -> list[str]:
        """One line for each rule by which no trainable parameter learns, as for `norm` in a model without norms."""
        used = {self._rule(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
        unused = [rule.match for index, rule in enumerate(self.rules) if index not in used]
        return [f"warning: optimizer.rules: no parameter is left for match: {match}" for match in unused]

    def _rule(self, name: str) -> int:
        """The first rule that matches a name; one beyond the last if none does."""
        return next((index for index, rule in enumerate(self.rules) if rule.match in name), len(self.rules))

    def _layer(self, name: str, parts: Parts) -> int:
        """The part that a parameter belongs to; all are in the rest if no rates decay."""
        inside = (index for index, part in enumerate(parts) if any(name.startswith(start) for start in part))
        return len(parts) if self.layer_decay is None else next(inside, len(parts))

    def _rate(self, batch_size: int, rule: ParameterRule, layers_above: int) -> float:
        return self.learning_rate(batch_size) * rule.lr_scale * (self.layer_decay or 1.0) ** layers_above


class AdamWConfig(_OptimizerConfig):
    """AdamW (Loshchilov & Hutter, ICLR 2019)."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Rate, Rate] = (0.9, 0.999)

    def build(self, model: nn.Module, batch_size: int, parts: Parts = ()) -> Optimizer:
        """The optimiser of all trainable parameters of `model`. parts: see `groups`."""
        return _eager(torch.optim.AdamW)(self.groups(model, batch_size, parts), betas=self.betas, fused=True)


class SGDConfig(_OptimizerConfig):
    """SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: NonNegativeFloat = 0.9

    def build(self, model: nn.Module, batch_size: int, parts: Parts = ()) -> Optimizer:
        """The optimiser of all trainable parameters of `model`. parts: see `groups`."""
        optimizer = _eager(torch.optim.SGD)(self.groups(model, batch_size, parts), momentum=self.momentum, fused=True)
        if self.momentum:
            # The optimiser itself would leave the momentum uninitialised if its first step is skipped (PyTorch 2.14).
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


def _eager(kind: type[Optimizer]) -> Any:
    """The same optimiser, without what keeps torch.compile out of its methods: that imports it, more than a second.

    torch.compile never sees them here. Where PyTorch has no such wrapper, the methods stay as they are.
    """
    names = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")
    methods = {name: getattr(getattr(kind, name), "__wrapped__", getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(kind.__name__, (kind,), methods)


def moving_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """The exponential moving average of the weights of `model`, which `update_parameters` continues; None if off."""
    return None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


OptimizerConfig = Annotated[AdamWConfig | SGDConfig, Field(discriminator="name")]
