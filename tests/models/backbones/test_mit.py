import pytest
import torch
from torch.nn import functional as F

from config import Schema, validate
from errors import UserError
from models.backbones.mit import SHAPES, Attention, Block, MiT, MiTConfig
from models.components import BackboneConfig

PARAMETERS = {
    "mit_b0": 3_319_392,
    "mit_b1": 13_151_424,
    "mit_b2": 24_196_288,
    "mit_b3": 44_072_128,
    "mit_b4": 60_842_688,
    "mit_b5": 81_443_008,
}


def tiny(drop_path: float = 0.0) -> MiT:
    torch.manual_seed(0)
    return MiT((8, 16, 20, 32), (1, 1, 2, 1), drop_path)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        backbone = MiT(*SHAPES[name])
    assert sum(parameter.numel() for parameter in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (29, 30), (32, 33)])
def test_feature_info_is_true(size: tuple[int, int]) -> None:
    backbone = tiny()
    features = backbone(torch.randn(2, 3, *size))
    expected = [
        (2, channels, -(-size[0] // stride), -(-size[1] // stride)) for channels, stride in backbone.feature_info
    ]
    assert [feature.shape for feature in features] == expected
    assert [stride for _, stride in backbone.feature_info] == [4, 8, 16, 32]


def test_features_need_no_copy_to_be_channels_last() -> None:
    for feature in tiny()(torch.randn(2, 3, 64, 64)):
        assert feature.is_contiguous(memory_format=torch.channels_last)


def test_memory_format_of_images_does_not_matter() -> None:
    backbone, images = tiny().eval(), torch.randn(2, 3, 64, 96)
    for a, b in zip(backbone(images), backbone(images.contiguous(memory_format=torch.channels_last)), strict=True):
        torch.testing.assert_close(a, b)


def test_images_too_small_for_the_reduction_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 29"):
        tiny()(torch.randn(1, 3, 28, 64))


def test_attention_equals_its_formula_where_the_reduction_does_not_divide() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, heads=2, reduction=4), torch.randn(2, 7, 9, 8)
    reduced = F.conv2d(x.permute(0, 3, 1, 2), attention.reduce.weight, attention.reduce.bias, stride=4)
    source = F.layer_norm(
        reduced.flatten(2).transpose(1, 2), (8,), attention.reduce_norm.weight, attention.reduce_norm.bias
    )
    assert source.shape == (2, 1 * 2, 8)
    query, (key, value) = attention.query(x).reshape(2, 63, 8), attention.key_value(source).chunk(2, dim=-1)
    heads = []
    for channels in (slice(0, 4), slice(4, 8)):
        scores = query[..., channels] @ key[..., channels].transpose(1, 2) / 4**0.5
        heads.append(scores.softmax(-1) @ value[..., channels])
    expected = attention.project(torch.cat(heads, -1)).reshape(2, 7, 9, 8)
    torch.testing.assert_close(attention(x), expected)


def test_drop_path_leaves_out_whole_images_at_its_rate_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(8, heads=1, reduction=1, drop_path=0.25).train()
    x, branch = torch.zeros(8000, 1, 1, 8), torch.ones(8000, 1, 1, 8)
    added = block.add_branch(x, branch)
    assert set(added.flatten(1).std(dim=1).tolist()) == {0.0}
    assert added.mean().item() == pytest.approx(1, abs=0.02)
    assert (added[:, 0, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(block.eval().add_branch(x, branch), branch)


def test_drop_path_rises_linearly_over_all_blocks() -> None:
    rates = [module.drop_path for module in tiny(0.2).modules() if isinstance(module, Block)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_every_norm_is_called_norm_and_nothing_is_called_head() -> None:
    backbone = tiny()
    norms = {name for name, module in backbone.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms
    assert all("norm" in name.rpartition(".")[2] for name in norms)
    others = {name.rpartition(".")[0] for name, _ in backbone.named_parameters()} - norms
    assert not any("norm" in name or "head." in name for name in others)


def test_eps_of_the_norms_is_the_documented_one() -> None:
    norms = {name: module.eps for name, module in tiny().named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert {eps for name, eps in norms.items() if name.endswith(("patch_norm", "reduce_norm"))} == {1e-5}
    assert {eps for name, eps in norms.items() if not name.endswith(("patch_norm", "reduce_norm"))} == {1e-6}


def test_a_bare_word_names_a_backbone() -> None:
    class Holder(Schema):
        backbone: BackboneConfig

    assert validate(Holder, {"backbone": "mit_b2"}, "test").backbone == MiTConfig(name="mit_b2")
    with pytest.raises(UserError, match="did you mean mit_b1"):
        validate(Holder, {"backbone": "mit_b11"}, "test")
    with pytest.raises(UserError, match="divide into 5 heads"):
        validate(Holder, {"backbone": {"name": "mit_b0", "channels": [8, 16, 24, 32]}}, "test")
