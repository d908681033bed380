import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from config import Schema, dump, validate
from errors import UserError
from experiment import load_experiment
from models import ModelConfig
from models.depthformer.decoder import Decoder
from models.depthformer.hahi import HAHI
from models.depthformer.loss import scale_invariant_log_loss
from models.depthformer.model import DepthFormer, DepthFormerConfig
from structures import Batch, DatasetInfo, Target
from tests.conftest import UPSAMPLERS
from upsamplers import Bilinear, Upsampler
from upsamplers.interpolate import NearestConfig

CONFIGS = Path(__file__).parents[3] / "configs"
INFO = DatasetInfo("depth", "test", max_depth=10.0)
SWIN = {"name": "swin_t", "channels": 32, "depths": [1, 2, 1, 1], "window": 3, "drop_path": 0.0}
MIT = {"name": "mit_b0", "channels": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "drop_path": 0.0}
SMALL = {"name": "depthformer", "channels": 16, "stem_channels": 8, "points": 2, "dropout": 0.0}


def build(info: DatasetInfo = INFO, seed: int = 0, **options: Any) -> DepthFormer:
    torch.manual_seed(seed)
    given = {**SMALL, "backbone": MIT, "upsampler": "bilinear", **options}
    return TypeAdapter(ModelConfig).validate_python(given).build(info)


def lively(model: DepthFormer) -> DepthFormer:
    """Where the start is neutral, something else, as after training: depth and what attention looks at vary."""
    nn.init.normal_(model.decoder.output.weight, std=0.3)
    for attention in (model.neck.aggregation, model.neck.interaction):
        for layer in (attention.offsets, attention.weights):
            nn.init.normal_(layer.weight, std=0.3)
    return model


def batch(size: tuple[int, int] = (64, 96), inside: tuple[int, int] | None = None, original: Any = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images, depth = torch.randn(2, 3, *size, generator=generator), torch.rand(2, *size, generator=generator) * 9 + 0.5
    depth[:, :8] = 0
    original = original or size
    targets = [Target(name, original, depth=each) for name, each in zip("ab", depth, strict=True)]
    return Batch(images, [inside or size] * 2, targets)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the published network -------------------------------------------------------------------------------------------

# Increments over the baseline: all parameters, conv weights only, as printed in the paper's Table 9.
TABLE_9 = {
    "nearest": (0, 0, "0.0M"),
    "deconv": (7_051_680, 7_050_240, "7.1M"),
    "pixelshuffle": (28_206_720, 28_200_960, "28.2M"),
    "carafe": (323_216, 322_560, "0.3M"),
    "indexnet": (6_333_056, 6_330_112, "6.3M"),
    "a2u": (31_064, 27_968, None),  # printed as 30.0K, which no way of counting gives
    "fade": (197_220, 196_864, "0.2M"),
    "sapa": (74_240, 69_632, "0.1M"),
    "dysample-s": (5_824, 5_760, "5.8K"),
    "dysample-s+": (11_584, 11_520, "11.5K"),
    "dysample": (46_208, 46_080, "46.1K"),
    "dysample+": (92_288, 92_160, "92.2K"),
}


def published(upsampler: object) -> DepthFormer:
    with torch.device("meta"):
        return DepthFormerConfig.model_validate({"upsampler": upsampler}).build(INFO)


def test_parameter_counts_of_the_network_and_its_parts_are_the_published_ones() -> None:
    model = published({"name": "bilinear", "align_corners": True})
    assert count(model) == 47_612_029
    parts = (model.backbone, model.stem, model.neck, model.decoder)
    assert [count(part) for part in parts] == [27_520_698, 9_536, 12_392_834, 7_688_961]


@pytest.mark.parametrize("name", TABLE_9)
def test_increments_of_table_9(name: str) -> None:
    everything, weights, printed = TABLE_9[name]
    model = published(name)
    assert count(model) == 47_612_029 + everything
    upsamplers = [module for module in model.modules() if isinstance(module, Upsampler)]
    assert [module.channels for module in upsamplers] == [768, 384, 192, 96]
    assert sum(module.weight_count() for module in upsamplers) == weights
    if printed is not None:
        unit = 1e3 if printed.endswith("K") else 1e6
        assert f"{weights / unit:.1f}" == printed[:-1]


def test_the_baseline_interpolates_from_corner_to_corner_and_dysample_plus_replaces_it() -> None:
    baseline = load_experiment(CONFIGS / "depth_bilinear.yaml").build_model()
    stages = [module for module in baseline.modules() if isinstance(module, Upsampler)]
    assert [type(stage) for stage in stages] == [Bilinear] * 4
    for stage in stages:
        x = torch.randn(1, stage.channels, 3, 4)
        expected = F.interpolate(x, size=(6, 8), mode="bilinear", align_corners=True)
        torch.testing.assert_close(stage(x), expected)
        assert torch.equal(stage(x)[..., 0, 0], x[..., 0, 0])
    ours = load_experiment(CONFIGS / "depth_dysample.yaml").model
    assert ours.upsampler.dyscope
    assert ours.upsampler.style == "lp"
    plain = load_experiment(CONFIGS / "depth_dysample.yaml", ["model.upsampler=bilinear"]).model
    assert not plain.upsampler.align_corners


def test_the_recipe_exempts_norms_and_position_biases_alone_from_decay() -> None:
    experiment = load_experiment(CONFIGS / "depth_bilinear.yaml")
    model = experiment.build_model()
    norms, biases, rest = experiment.optimizer.build(model, 16).param_groups
    assert (norms["weight_decay"], biases["weight_decay"], rest["weight_decay"]) == (0, 0, 0.01)
    assert len(biases["params"]) == 12
    kept = {id(parameter) for parameter in rest["params"]}
    batch_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(batch_norms) == 16
    assert all(id(module.weight) in kept for module in batch_norms)
    peak = max(experiment.schedule.factor(step, experiment.steps) for step in range(0, experiment.steps, 100))
    assert peak * experiment.optimizer.lr == pytest.approx(4.5e-5, rel=1e-3)


# --- training and prediction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_every_upsampler_trains_all_parameters_and_predicts_at_original_size(upsampler: str) -> None:
    model = lively(build(upsampler=upsampler))
    losses = model(batch())
    assert list(losses) == ["loss_silog"]
    losses["loss_silog"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    for prediction in model.eval().predict(batch(inside=(50, 70), original=(101, 143))):
        assert prediction.depth.shape == (101, 143)
        assert prediction.depth.dtype == torch.float32
        assert prediction.depth.min() >= 0.001
        assert prediction.depth.max() <= 10


@pytest.mark.parametrize("backbone", [SWIN, MIT], ids=["swin", "mit"])
def test_every_backbone_learns_and_gives_depth_at_the_size_of_the_images(backbone: dict) -> None:
    model = lively(build(backbone=backbone)).train()
    depth = model.outputs(batch().images)["depth"]
    assert depth.shape == (2, 1, 64, 96)
    assert depth.min() >= 0.001
    model(batch())["loss_silog"].backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("upsampler", ["bilinear", "dysample-s+", "fade"])
def test_sizes_that_32_does_not_divide_are_taken(upsampler: str) -> None:
    model = build(upsampler=upsampler, backbone=SWIN).eval()
    assert model.outputs(torch.randn(1, 3, 97, 131))["depth"].shape == (1, 1, 97, 131)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("upsampler", ["bilinear", "indexnet", "dysample+"])
def test_untrained_networks_predict_a_quarter_of_the_range_so_that_no_relu_is_dead(
    activation: str, upsampler: str
) -> None:
    for backbone in (SWIN, MIT):
        model = build(DatasetInfo("depth", "far", max_depth=80.0), upsampler=upsampler, backbone=backbone)
        depth = model.train().outputs(batch().images)["depth"]
        assert (depth - 20).abs().max() < 5


def test_a_few_steps_learn_a_scene() -> None:
    model = build(seed=1, upsampler="dysample+", backbone=MIT).train()
    data = batch((32, 64))
    ramp = torch.linspace(1, 9, 64).expand(32, 64)
    data.images[:, 0], data.targets[0].depth, data.targets[1].depth = ramp / 4 - 1, ramp, ramp
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(data)["loss_silog"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.25 * losses[0]


def test_sigmoid_depth_ends_at_the_data_s_maximum_and_relu_has_no_upper_end() -> None:
    levels = [torch.randn(1, 4, 8 >> level, 8 >> level) for level in range(3)]
    for activation, expected in (("sigmoid", 5.0), ("relu", 1000.001)):
        decoder = Decoder([4, 4, 4], NearestConfig(), activation, 0.001, 5.0)
        nn.init.constant_(decoder.output.bias, 1000.0)
        nn.init.zeros_(decoder.output.weight)
        torch.testing.assert_close(decoder(levels), torch.full((1, 1, 8, 8), expected))


class Recorder(nn.Module):
    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        self.calls.append((x.shape[1:], guide))
        return F.interpolate(x, scale_factor=2.0)


def test_each_stage_is_guided_by_the_next_finer_level_which_follows_the_result() -> None:
    calls: list[Any] = []
    decoder = Decoder([2, 3, 5, 7], NearestConfig(), "relu", 0.001, 10.0)
    decoder.upsamplers = nn.ModuleList(Recorder(calls) for _ in range(3))
    levels = [torch.randn(1, channels, 16 >> level, 16 >> level) for level, channels in enumerate((2, 3, 5, 7))]
    decoder(levels)
    assert [tuple(shape) for shape, _ in calls] == [(7, 2, 2), (5, 4, 4), (3, 8, 8)]
    assert [guide is level for (_, guide), level in zip(calls, levels[2::-1], strict=True)] == [True] * 3
    x = decoder.enter(levels[3])
    for fusion, skip in zip(decoder.fusions, levels[2::-1], strict=True):
        x = fusion(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
    torch.testing.assert_close(decoder(levels), decoder.output(x).relu() + 0.001)


def test_a_hosts_start_leaves_that_of_its_upsamplers_alone() -> None:
    for module in build(upsampler="dysample+").decoder.upsamplers:
        assert module.offset.weight.std().item() == pytest.approx(0.001, rel=0.2)
        assert module.scope.weight.abs().max() == 0


# --- prediction: padding, mirror images, sizes -----------------------------------------------------------------------


def test_depth_is_resized_from_corner_to_corner_after_the_padding_is_cut() -> None:
    model = build(flip_test=False).eval()
    ramp = torch.linspace(1, 3.2, 32).expand(1, 1, 24, 32)
    model._half_size_depth = lambda images: ramp
    data = Batch(torch.zeros(1, 3, 48, 64), [(48, 43)], [Target("a", (30, 85))])
    depth = model.predict(data)[0].depth
    whole = torch.linspace(1, 3.2, 64)[:43]
    assert depth.shape == (30, 85)
    torch.testing.assert_close(depth[:, 0], whole[0].expand(30))
    torch.testing.assert_close(depth[:, -1], whole[-1].expand(30))
    torch.testing.assert_close(depth[0, 42], whole[21])


def test_predictions_are_clamped_before_they_are_resized_and_averaged() -> None:
    model = build().eval()
    halves = iter([torch.full((1, 1, 8, 8), 30.0), torch.full((1, 1, 8, 8), 1e-9)])
    model._half_size_depth = lambda images: next(halves)
    data = Batch(torch.zeros(1, 3, 16, 16), [(16, 16)], [Target("a", (16, 16))])
    torch.testing.assert_close(model.predict(data)[0].depth, torch.full((16, 16), (10 + 0.001) / 2))


@pytest.mark.parametrize("inside", [(64, 96), (50, 70)])
def test_the_depth_of_a_mirror_image_is_the_mirrored_depth(inside: tuple[int, int]) -> None:
    data = batch(inside=inside, original=inside)
    for image in data.images:
        image[:, inside[0] :] = 0
        image[:, :, inside[1] :] = 0
    mirrored = Batch(data.images.clone(), data.sizes, data.targets)
    mirrored.images[..., : inside[1]] = data.images[..., : inside[1]].flip(-1)
    for flip_test, equal in ((True, True), (False, False)):
        model = lively(build(backbone=SWIN, flip_test=flip_test)).eval()
        for one, other in zip(model.predict(data), model.predict(mirrored), strict=True):
            assert one.depth.std() > 0.05
            assert torch.allclose(one.depth.flip(-1), other.depth, atol=1e-4) == equal


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    model, data = lively(build(backbone=SWIN)).eval(), batch()
    alone = Batch(data.images[1:], data.sizes[1:], data.targets[1:])
    torch.testing.assert_close(model.predict(data)[1].depth, model.predict(alone)[0].depth, rtol=1e-4, atol=1e-4)


# --- the neck --------------------------------------------------------------------------------------------------------


def test_every_level_of_the_neck_sees_all_transformer_levels_and_only_the_finest_the_convolutional_branch() -> None:
    torch.manual_seed(0)
    neck = HAHI([4, 5, 6, 7], channels=16, points=2, dropout=0.0).eval()
    for attention in (neck.aggregation, neck.interaction):  # points all over the map
        nn.init.normal_(attention.offsets.bias, std=4.0)
    levels = [torch.randn(1, 4 + level, 16 >> level, 16 >> level, requires_grad=True) for level in range(4)]
    for index, output in enumerate(neck(levels)):
        assert output.shape == levels[index].shape
        gradients = torch.autograd.grad(output.square().sum(), levels, allow_unused=True, retain_graph=True)
        seen = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert seen == [index == 0, True, True, True]


# --- precision and graphs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampler", ["bilinear", "dysample"])
def test_bfloat16_autocast_stays_near_float32(upsampler: str) -> None:
    model, data = build(upsampler=upsampler, backbone=SWIN), batch()
    expected = model(data)["loss_silog"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(data)["loss_silog"]
        depth = model.outputs(data.images)["depth"]
    assert loss.dtype == depth.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_the_neck_compiles_without_a_graph_break() -> None:
    torch.manual_seed(0)
    neck = HAHI([4, 4, 4], channels=8, points=1, dropout=0.0).eval()
    levels = [torch.randn(1, 4, 16 >> level, 16 >> level) for level in range(3)]
    compiled = torch.compile(neck, backend="aot_eager", fullgraph=True)
    for own, other in zip(compiled(levels), neck(levels), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exported_graphs_give_the_same_depth() -> None:
    class Network(nn.Module):
        def __init__(self, model: DepthFormer) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return self.model.outputs(images)["depth"]

    network, images = Network(lively(build(upsampler="dysample", backbone=SWIN)).eval()), torch.randn(1, 3, 64, 96)
    program = torch.export.export(network, (images,))
    torch.testing.assert_close(program.module()(images), network(images), rtol=1e-4, atol=1e-4)


# --- options ---------------------------------------------------------------------------------------------------------


def test_unfit_data_and_options_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"needs depths, but ade20k is data for the task semantic; use data with depths"
    ):
        build(DatasetInfo("semantic", "ade20k", ("wall",)))
    with pytest.raises(ValueError, match="channels 20 do not divide into 8 heads"):
        build(channels=20)
    with pytest.raises(ValueError, match="min_depth 10 is not below the largest depth of the data, 10"):
        build(min_depth=10)


def test_the_config_survives_a_round_trip_and_its_backbone_is_swin_t() -> None:
    class Holder(Schema):
        model: ModelConfig

    holder = validate(Holder, {"model": {"name": "depthformer", "upsampler": "sapa"}}, "test")
    assert validate(Holder, dump(holder), "test") == holder
    assert holder.model.backbone.name == "swin_t"
    assert holder.model.backbone.drop_path == 0.3
    with pytest.raises(UserError, match=r"model\.activation: 'tanh' is not possible"):
        validate(Holder, {"model": {"name": "depthformer", "upsampler": "sapa", "activation": "tanh"}}, "test")
    wrong = {"name": "depthformer", "upsampler": {"name": "bilinear", "align_corners": "corner"}}
    with pytest.raises(UserError, match=r"model\.upsampler\.align_corners"):
        validate(Holder, {"model": wrong}, "test")


def test_a_bilinear_from_corner_to_corner_is_no_single_step_of_segformer() -> None:
    corner = {"name": "bilinear", "align_corners": True}
    given = {"name": "segformer", "backbone": MIT, "upsampler": corner, "channels": 8}
    config = TypeAdapter(ModelConfig).validate_python(given)
    assert len(config.build(DatasetInfo("semantic", "any", ("a", "b"))).head.upsamplers) == 6
    with pytest.raises(ValueError, match="plain bilinear"):
        TypeAdapter(ModelConfig).validate_python({**given, "one_step": True})


# --- the loss --------------------------------------------------------------------------------------------------------


def depths(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 9 + 0.5


def test_the_loss_is_its_formula_over_the_measured_pixels_of_the_whole_batch() -> None:
    prediction, labels = depths(3, 1, 8, 10), depths(3, 8, 10).flip(-1)
    labels[0, :3] = 0
    labels[2, :, 4:] = 0
    g = torch.log(prediction[:, 0] + 0.001) - torch.log(labels + 0.001)
    g = g[labels > 0]
    expected = math.sqrt(g.var().item() + 0.15 * g.mean().item() ** 2)  # torch's var is unbiased
    assert scale_invariant_log_loss(prediction, labels).item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_prediction_costs_nothing_and_its_gradient_is_finite() -> None:
    labels = depths(2, 8, 8)
    prediction = labels[:, None].clone().requires_grad_()
    loss = scale_invariant_log_loss(prediction, labels)
    loss.backward()
    assert loss.item() < 1e-5
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("factor", [0.5, 2.0, 7.0])
def test_a_common_factor_costs_the_root_of_the_weight_of_the_mean(factor: float) -> None:
    labels = depths(2, 8, 8)
    # The factor multiplies depths to which the loss has added its offset.
    prediction = factor * (labels[:, None] + 0.001) - 0.001
    expected = math.sqrt(0.15) * abs(math.log(factor))
    assert scale_invariant_log_loss(prediction, labels).item() == pytest.approx(expected, rel=1e-4)


def test_unmeasured_pixels_count_neither_in_value_nor_in_gradient() -> None:
    labels, prediction = depths(1, 8, 8), depths(1, 1, 8, 8).flip(-1)
    labels[:, ::2] = 0
    changed = prediction.clone()
    changed[:, :, ::2] = 100
    changed.requires_grad_()
    loss = scale_invariant_log_loss(changed, labels)
    torch.testing.assert_close(loss, scale_invariant_log_loss(prediction, labels))
    loss.backward()
    assert changed.grad[:, :, ::2].abs().max() == 0
    assert changed.grad[:, :, 1::2].abs().min() > 0


@pytest.mark.parametrize("measured", [0, 1])
def test_with_no_or_a_single_measured_pixel_loss_and_gradient_are_finite(measured: int) -> None:
    labels, prediction = torch.zeros(2, 4, 4), depths(2, 1, 4, 4).requires_grad_()
    labels[0, 0, :measured] = 3
    loss = scale_invariant_log_loss(prediction, labels)
    loss.backward()
    expected = math.sqrt(0.15) * abs(math.log((prediction[0, 0, 0, 0].item() + 0.001) / 3.001)) if measured else 0
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert prediction.grad.isfinite().all()


def test_a_depth_that_is_no_number_shows_in_the_loss() -> None:
    prediction = depths(1, 1, 4, 4)
    prediction[0, 0, 1, 1] = math.nan
    assert scale_invariant_log_loss(prediction, depths(1, 4, 4)).isnan()


def test_from_corner_to_corner_a_map_is_interpolated_to_the_size_of_its_guide() -> None:
    x, guide = torch.randn(1, 8, 4, 5), torch.zeros(1, 4, 7, 9)
    found = Bilinear(8, align_corners=True)(x, guide=guide)
    torch.testing.assert_close(found, F.interpolate(x, (7, 9), mode="bilinear", align_corners=True))
    torch.testing.assert_close(found[0, :, -1, -1], x[0, :, -1, -1])
