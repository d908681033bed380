"""Learning rates and parameter groups against published numbers and closed forms."""

import pytest
import torch
from torch import nn

from errors import UserError
from runtime.optimizer import AdamWConfig, ParameterRule, SGDConfig
from runtime.schedule import ConstantConfig, CosineConfig, MultiStepConfig, PolyConfig, set_learning_rate


@pytest.mark.parametrize(
    ("printed_iteration", "rate"),
    [(50, 1.959e-6), (500, 1.990e-5), (1450, 5.744e-5), (5000, 5.813e-5), (159_950, 1.913e-8)],
)
def test_segformer_schedule_matches_the_published_log(printed_iteration, rate):
    schedule = PolyConfig(power=1.0, warmup_steps=1500, warmup_ratio=1e-6)
    assert 6e-5 * schedule.factor(printed_iteration - 1, 160_000) == pytest.approx(rate, rel=5e-4)


def test_depthformer_peaks_below_its_base_rate():
    schedule = CosineConfig(final_ratio=1e-8, warmup_steps=12_800, warmup_ratio=0.001)
    rates = [6e-5 * schedule.factor(step, 38_400) for step in range(38_400)]
    assert rates.index(max(rates)) == 12_800
    assert max(rates) == pytest.approx(4.5e-5, rel=1e-3)


def test_detectors_step_after_epochs_8_and_11():
    schedule = MultiStepConfig(milestones=(8 / 12, 11 / 12), warmup_steps=500, warmup_ratio=0.001)
    steps = 12 * 7330
    factors = {epoch: schedule.factor(epoch * 7330 + 600, steps) for epoch in range(12)}
    assert [factors[epoch] for epoch in (0, 7, 8, 10, 11)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert schedule.factor(8 * 7330 - 1, steps) == 1
    assert schedule.factor(0, steps) == pytest.approx(0.001)


def test_constant_after_warmup():
    schedule = ConstantConfig(warmup_steps=10, warmup_ratio=0.5)
    assert [schedule.factor(step, 100) for step in (0, 5, 10, 99)] == pytest.approx([0.5, 0.75, 1, 1])


def test_setting_the_rate_does_not_accumulate():
    optimizer = SGDConfig(lr=0.2).build(nn.Linear(2, 2), batch_size=1)
    for factor in (0.5, 0.5, 1.0):
        rate = set_learning_rate(optimizer, factor)
    assert rate == 0.2


def named_model() -> nn.Module:
    return nn.ModuleDict(
        {"backbone": nn.ModuleDict({"norm": nn.LayerNorm(4), "fc": nn.Linear(4, 4)}), "head": nn.LayerNorm(4)}
    )


def test_first_matching_rule_counts():
    rules = (ParameterRule(match="head.", lr_scale=10), ParameterRule(match="norm", weight_decay=0))
    optimizer = AdamWConfig(lr=1e-3, weight_decay=0.01, rules=rules).build(named_model(), batch_size=16)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [
        (1e-2, 0.01, 2),
        (1e-3, 0, 2),
        (1e-3, 0.01, 2),
    ]


def test_rule_without_a_parameter_is_a_warning():
    config = AdamWConfig(lr=1e-3, rules=(ParameterRule(match="nrom"), ParameterRule(match="norm")))
    assert len(config.build(named_model(), batch_size=16).param_groups) == 2
    assert config.warnings(named_model()) == ["warning: optimizer.rules: no parameter is left for match: nrom"]


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    optimizer = SGDConfig(lr=0.1).build(model, batch_size=1)
    assert [parameter.shape for group in optimizer.param_groups for parameter in group["params"]] == [
        torch.Size([2, 2])
    ]


def test_rate_scales_with_the_batch_where_asked():
    assert SGDConfig(lr=0.02, lr_batch_size=16).learning_rate(8) == 0.01
    assert SGDConfig(lr=0.02).learning_rate(8) == 0.02


# --- layer-wise learning rates ---------------------------------------------------------------------------------------

PARTS = (("backbone.norm.",), ("backbone.fc.",))


def rates_by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}


def test_each_part_learns_with_a_fixed_factor_of_the_next_ones_rate():
    model = named_model()
    rules = (ParameterRule(match="bias", lr_scale=2),)
    rates = rates_by_name(SGDConfig(lr=0.8, layer_decay=0.5, rules=rules).build(model, 1, PARTS), model)
    assert rates == {
        "backbone.norm.weight": 0.8 * 0.25,
        "backbone.norm.bias": 1.6 * 0.25,
        "backbone.fc.weight": 0.8 * 0.5,
        "backbone.fc.bias": 1.6 * 0.5,
        "head.weight": 0.8,
        "head.bias": 1.6,
    }


def test_the_logged_rate_is_that_of_the_rest_also_with_layers():
    optimizer = SGDConfig(lr=0.8, layer_decay=0.5).build(named_model(), 1, PARTS)
    assert set_learning_rate(optimizer, 0.5) == 0.4


def test_without_layer_decay_there_are_the_same_groups_with_parts_as_without():
    groups = [AdamWConfig(lr=1e-3).groups(named_model(), 1, parts) for parts in ((), PARTS)]
    assert [len(each) for each in groups] == [1, 1]


def test_layer_decay_of_a_frozen_backbone_is_an_error():
    model = named_model()
    model["backbone"].requires_grad_(False)
    with pytest.raises(UserError, match=r"optimizer\.layer_decay: no part of the backbone is trained"):
        SGDConfig(lr=0.1, layer_decay=0.5).build(model, 1, PARTS)


@pytest.mark.parametrize(
    ("config", "peer"),
    [
        (AdamWConfig(lr=0.1, weight_decay=0.1), lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1)),
        (
            SGDConfig(lr=0.1, weight_decay=0.1, momentum=0.0),
            lambda groups: torch.optim.SGD(groups, 0.1, weight_decay=0.1),
        ),
    ],
)
def test_optimisers_are_those_of_pytorch(config, peer):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = config.build(models[0], 8), peer(models[1].parameters())
    images = torch.randn(4, 3)
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
    optimizers[0].load_state_dict(optimizers[0].state_dict())
    assert models[0].weight.grad_fn is None
    torch.testing.assert_close(models[0].weight, models[1].weight)
