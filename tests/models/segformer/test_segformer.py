from typing import Any

import pytest
import torch
from torch import Tensor

from config import Schema, dump, validate
from errors import UserError
from models import ModelConfig
from models.segformer.model import SegFormer, SegFormerConfig, SegFormerHead
from structures import IGNORE, Batch, DatasetInfo, Target
from upsamplers import NAMES, DySample, build_upsampler

INFO = DatasetInfo("semantic", "test", ("wall", "floor", "door", "lamp", "cat"))
TINY = {"name": "mit_b0", "channels": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "drop_path": 0.0}


def config(**options: Any) -> SegFormerConfig:
    return SegFormerConfig.model_validate({"backbone": TINY, "upsampler": "bilinear", "channels": 32, **options})


def build(**options: Any) -> SegFormer:
    torch.manual_seed(0)
    return config(**options).build(INFO)


def batch(height: int = 64, width: int = 64, original: tuple[int, int] = (50, 70)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, height, width, generator=generator)
    labels = torch.randint(IGNORE, INFO.num_classes, (2, height, width), generator=generator).to(torch.int16)
    targets = [Target("a", original, semantic=labels[0]), Target("b", original, semantic=labels[1])]
    return Batch(images, [(height, width), (height - 8, width - 16)], targets)


def logits(model: SegFormer, images: Tensor) -> Tensor:
    return model.outputs(images)["logits"]


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        ("mit_b0", 3_752_694),
        ("mit_b1", 13_715_798),
        ("mit_b2", 27_461_974),
        ("mit_b3", 47_337_814),
        ("mit_b4", 64_108_374),
        ("mit_b5", 84_708_694),
    ],
)
def test_parameter_count_with_150_classes_is_the_published_one(backbone: str, count: int) -> None:
    with torch.device("meta"):
        model = SegFormerConfig(backbone=backbone, upsampler="bilinear").build(DatasetInfo("", "", ("",) * 150))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("upsampler", NAMES)
def test_every_upsampler_trains_all_parameters_and_predicts_at_original_size(upsampler: str) -> None:
    model = build(upsampler=upsampler)
    losses = model(batch())
    assert list(losses) == ["loss_ce"]
    assert losses["loss_ce"].isfinite()
    losses["loss_ce"].backward()
    untrained = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert untrained == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    for prediction in model.eval().predict(batch()):
        assert prediction.semantic.shape == (50, 70)
        assert prediction.semantic.dtype == torch.int16
        assert set(prediction.semantic.unique().tolist()) <= set(range(5))


@pytest.mark.parametrize("upsampler", NAMES)
def test_sizes_that_32_does_not_divide_round_up_at_every_level(upsampler: str) -> None:
    model = build(upsampler=upsampler).eval()
    assert logits(model, torch.randn(1, 3, 97, 131)).shape == (1, 5, 25, 33)
    assert model.predict(batch(97, 131))[0].semantic.shape == (50, 70)


@pytest.mark.parametrize("upsampler", ["deconv", "carafe", "fade", "dysample+"])
def test_upsamplers_add_their_parameters_six_times(upsampler: str) -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(build(upsampler=upsampler)) - count(build()) == 6 * count(build_upsampler(upsampler, 32))
    names = {name for name, _ in build(upsampler=upsampler).named_parameters() if "upsamplers" in name}
    assert {name[: len("head.upsamplers.0.")] for name in names} == {f"head.upsamplers.{stage}." for stage in range(6)}


def test_the_head_leaves_the_start_of_its_upsamplers_alone() -> None:
    upsamplers = [module for module in build(upsampler="dysample+").modules() if isinstance(module, DySample)]
    assert len(upsamplers) == 6
    for upsampler in upsamplers:
        assert upsampler.offset.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert upsampler.offset.bias.abs().max() == upsampler.scope.weight.abs().max() == 0


class Recorder(torch.nn.Module):
    uses_guide = True

    def __init__(self, index: int, calls: list[Any]) -> None:
        super().__init__()
        self.index, self.calls = index, calls

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        self.calls.append((self.index, x.shape[-1], guide.shape[-1], guide))
        return torch.nn.functional.interpolate(x, scale_factor=2.0)


def test_stages_run_in_the_published_order_guided_by_plain_embeddings() -> None:
    calls: list[Any] = []
    head = SegFormerHead((4, 4, 4, 4), 8, 5, [Recorder(index, calls) for index in range(6)], "nearest", 0.0)
    features = [torch.randn(1, 4, side, side) for side in (16, 8, 4, 2)]
    head(features)
    expected = [(0, 2, 4), (1, 4, 8), (2, 8, 16), (3, 4, 8), (4, 8, 16), (5, 8, 16)]
    assert [call[:3] for call in calls] == expected
    for _, _, side, guide in calls:
        level = [16, 8, 4].index(side)
        torch.testing.assert_close(guide, head.embeds[level](features[level].movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("upsampler", ["bilinear", "nearest"])
def test_folded_weights_of_training_equal_the_published_order(upsampler: str) -> None:
    head = build(upsampler=upsampler, one_step=True, dropout=0.0).head
    features = [torch.randn(2, channels, side, side) for channels, side in ((8, 16), (16, 8), (20, 4), (32, 2))]
    torch.testing.assert_close(head._fuse_with_folded_weights(features), head._fuse_levels(features))


def test_nearest_in_one_step_equals_six_stages() -> None:
    staged, at_once = build(upsampler="nearest").eval(), build(upsampler="nearest", one_step=True).eval()
    at_once.load_state_dict(staged.state_dict())
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(logits(staged, images), logits(at_once, images))


def test_bilinear_is_one_step_unless_told_otherwise() -> None:
    assert len(build().head.upsamplers) == 0
    assert len(build(one_step=False).head.upsamplers) == len(build(upsampler="nearest").head.upsamplers) == 6
    staged, at_once, images = build(one_step=False).eval(), build().eval(), torch.randn(1, 3, 64, 64)
    difference = (logits(staged, images) - logits(at_once, images)).abs().max()
    assert 0 < difference < logits(at_once, images).std()


def test_one_step_with_a_learned_upsampler_is_refused() -> None:
    with pytest.raises(UserError, match="not with this carafe; change the upsampler or remove one_step"):
        validate(SegFormerConfig, {"backbone": TINY, "upsampler": "carafe", "one_step": True}, "test")


@pytest.mark.parametrize("upsampler", ["bilinear", "dysample"])
def test_channels_last_changes_nothing(upsampler: str) -> None:
    model, images = build(upsampler=upsampler).eval(), torch.randn(2, 3, 64, 64)
    expected = logits(model, images)
    moved = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(logits(moved, images.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("upsampler", ["bilinear", "dysample"])
def test_bfloat16_autocast_stays_near_float32(upsampler: str) -> None:
    model, images = build(upsampler=upsampler, dropout=0.0), batch(32, 32)
    expected = model(images)["loss_ce"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images)["loss_ce"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_outputs_compile_without_a_graph_break() -> None:
    model, images = build(upsampler="dysample", dropout=0.0), torch.randn(2, 3, 64, 64)
    compiled = torch.compile(lambda x: logits(model, x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), logits(model, images))


@pytest.mark.slow
def test_export_serves_other_sizes() -> None:
    class Network(torch.nn.Module):
        def __init__(self, model: SegFormer) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return logits(self.model, images)

    network = Network(build(upsampler="dysample").eval())
    sides = {side: 32 * torch.export.Dim(f"{side}_32", min=2, max=64) for side in ("height", "width")}
    program = torch.export.export(
        network, (torch.randn(1, 3, 64, 96),), dynamic_shapes=({2: sides["height"], 3: sides["width"]},)
    )
    images = torch.randn(1, 3, 128, 64)
    torch.testing.assert_close(program.module()(images), network(images))


def test_padding_is_cut_before_the_resize_to_original_size() -> None:
    model = build(upsampler="nearest").eval()
    scores = torch.zeros(1, 5, 16, 16)
    scores[:, 1, :8] = 1  # class 1 in the upper half, which is all that is inside the padding
    scores[:, 2, 8:] = 2
    model.outputs = lambda images: {"logits": scores}
    padded = Batch(torch.zeros(1, 3, 64, 64), [(30, 64)], [Target("a", (45, 96))])
    assert model.predict(padded)[0].semantic.unique().tolist() == [1]


def test_the_config_survives_a_round_trip_and_takes_paper_names() -> None:
    class Holder(Schema):
        model: ModelConfig

    given = {"name": "segformer", "backbone": "mit_b0", "upsampler": "dysample-s+"}
    holder = validate(Holder, {"model": given}, "test")
    assert validate(Holder, dump(holder), "test") == holder
    assert holder.model.upsampler.style == "pl"
    with pytest.raises(UserError, match="did you mean 'carafe'"):
        validate(Holder, {"model": {**given, "upsampler": "karafe"}}, "test")
    with pytest.raises(UserError, match=r"model\.upsampler\.kernels"):
        validate(Holder, {"model": {**given, "upsampler": {"name": "carafe", "kernels": 3}}}, "test")
