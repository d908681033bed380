"""The backbone against timm, where both must agree, and against loops over pixels, where timm differs."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import Schema, validate
from errors import UserError
from models.backbones.swin import SHAPES, PatchMerging, Swin, SwinConfig, WindowAttention
from models.components import BackboneConfig
from tests.published.converters.renaming import renamed

PARAMETERS = {"swin_t": 27_520_698, "swin_s": 48_838_602, "swin_b": 86_880_376, "swin_l": 195_201_204}
FROM_TIMM = [
    (r"patch_embed\.proj", "patch"),
    (r"patch_embed\.norm", "patch_norm"),
    (r"layers\.(\d)\.downsample\.norm", lambda found: f"merges.{int(found[1]) - 1}.norm"),
    (r"layers\.(\d)\.downsample\.reduction", lambda found: f"merges.{int(found[1]) - 1}.reduce"),
    (r"layers\.(\d)\.blocks", r"stages.\1"),
    (r"norm1", "attention_norm"),
    (r"norm2", "mlp_norm"),
    (r"attn\.qkv", "attention.qkv"),
    (r"attn\.proj", "attention.project"),
    (r"attn\.relative_position_bias_table", "attention.position_bias"),
    (r"mlp\.fc1", "mlp.expand"),
    (r"mlp\.fc2", "mlp.contract"),
]


def tiny(window: int = 3, drop_path: float = 0.0) -> Swin:
    torch.manual_seed(0)
    return Swin(32, (1, 2, 2, 1), window, drop_path)


def randomised(module: nn.Module) -> nn.Module:
    """Biases and norms away from their neutral start."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        backbone = Swin(*SHAPES[name])
    assert sum(parameter.numel() for parameter in backbone.parameters()) == PARAMETERS[name]


def test_levels_are_those_of_timm_where_windows_divide_every_map() -> None:
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 3, "num_classes": 0}
    theirs = timm.models.SwinTransformer(img_size=96, always_partition=True, strict_img_size=False, **options)
    theirs = randomised(theirs).eval()
    ours = Swin(32, (2, 2, 2, 2), 3, 0.0).eval()
    unused = {name for name in theirs.state_dict() if name.startswith(("norm.", "head."))}
    state = {name: value for name, value in theirs.state_dict().items() if name not in unused}
    missing, unknown = ours.load_state_dict(renamed(state, *FROM_TIMM), strict=False)
    assert unknown == []
    assert {name.split(".")[0] for name in missing} == {"norms"}
    images = torch.randn(2, 3, 96, 192)  # maps of 24 x 48 to 3 x 6
    expected = theirs.forward_intermediates(images, indices=4, intermediates_only=True)
    with torch.no_grad():
        for level, reference in zip(ours(images), expected, strict=True):
            normed = F.layer_norm(reference.movedim(1, -1), reference.shape[1:2])  # our norms are at their start
            torch.testing.assert_close(level.movedim(1, -1), normed, rtol=1e-4, atol=1e-4)


def by_loops(attention: WindowAttention, x: Tensor) -> Tensor:
    """Window attention, pixel by pixel: who sees whom follows from places in the padded, shifted map."""
    side, shift, heads = attention.window, attention.shift, attention.heads
    B, H, W, C = x.shape
    rows, columns = (-(-length // side) * side for length in (H, W))
    padded = torch.zeros(B, rows, columns, C)
    padded[:, :H, :W] = x
    query, key, value = attention.qkv(padded).view(B, rows, columns, 3, heads, C // heads).unbind(3)

    def place(y: int, x: int) -> tuple[int, int, tuple[int, int, int, int]]:
        """Row and column after the shift, and which window and which part of the shifted map they lie in."""
        y, x = (y - shift) % rows, (x - shift) % columns
        return (
            y,
            x,
            (y // side, x // side, int(shift > 0 and y >= rows - shift), int(shift > 0 and x >= columns - shift)),
        )

    pixels = [(y, x) for y in range(rows) for x in range(columns)]
    result = torch.zeros(B, H, W, C)
    for y, x in pixels:
        if y >= H or x >= W:
            continue
        own_y, own_x, group = place(y, x)
        seen = [(a, b) for a, b in pixels if place(a, b)[2] == group]
        table = attention.position_bias.view(2 * side - 1, 2 * side - 1, heads)
        for head in range(heads):
            logits = torch.stack(
                [
                    (query[:, y, x, head] * key[:, a, b, head]).sum(-1) / (C // heads) ** 0.5
                    + table[own_y - place(a, b)[0] + side - 1, own_x - place(a, b)[1] + side - 1, head]
                    for a, b in seen
                ],
                dim=1,
            )
            values = torch.stack([value[:, a, b, head] for a, b in seen], dim=1)
            mixed = (logits.softmax(1)[..., None] * values).sum(1)
            result[:, y, x, head * C // heads : (head + 1) * C // heads] = mixed
    return attention.project(result)


@pytest.mark.parametrize("size", [(3, 3), (5, 7), (2, 4), (6, 1)])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_is_that_of_loops_over_pixels(size: tuple[int, int], shifted: bool) -> None:
    torch.manual_seed(0)
    attention = randomised(WindowAttention(64, 3, shifted))
    nn.init.normal_(attention.position_bias)
    x = torch.randn(2, *size, 64)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), by_loops(attention, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_merging_reads_squares_column_by_column_and_zeros_beyond_the_map(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    merging = randomised(PatchMerging(8))
    x = torch.randn(2, *size, 8)
    height, width = (-(-length // 2) for length in size)
    padded = torch.zeros(2, 2 * height, 2 * width, 8)
    padded[:, : size[0], : size[1]] = x
    corners = [padded[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    torch.testing.assert_close(merging(x), merging.reduce(merging.norm(torch.cat(corners, dim=-1))))


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (1, 5)])
def test_feature_info_is_true(size: tuple[int, int]) -> None:
    backbone = tiny()
    features = backbone(torch.randn(2, 3, *size))
    expected = [
        (2, channels, -(-size[0] // stride), -(-size[1] // stride)) for channels, stride in backbone.feature_info
    ]
    assert [feature.shape for feature in features] == expected
    assert [channels for channels, _ in backbone.feature_info] == [32, 64, 128, 256]


def test_images_of_a_batch_do_not_see_each_other() -> None:
    backbone, images = tiny().eval(), torch.randn(3, 3, 40, 72)
    for together, alone in zip(backbone(images), backbone(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns() -> None:
    backbone = tiny(drop_path=0.1)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, parameter in backbone.named_parameters() if not parameter.grad.any()] == []


def test_drop_path_rises_linearly_over_all_blocks() -> None:
    blocks = [block for stage in tiny(drop_path=0.5).stages for block in stage]
    assert [block.drop_path for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert [block.attention.shift for block in blocks] == [0, 0, 1, 0, 1, 0]


def test_every_norm_is_called_norm() -> None:
    backbone = tiny()
    norms = {name for name, module in backbone.named_modules() if isinstance(module, nn.LayerNorm)}
    others = {name for name, _ in backbone.named_parameters() if name.rpartition(".")[0] not in norms}
    assert all("norm" in name for name in norms)
    assert not any("norm" in name for name in others)


def test_the_window_follows_from_the_size_unless_given() -> None:
    assert [SwinConfig(name=name).shape.window for name in SHAPES] == [7, 7, 12, 12]
    small = SwinConfig(name="swin_l", window=5, channels=32, depths=(1, 1, 1, 1)).build()
    assert {block.attention.window for stage in small.stages for block in stage} == {5}


def test_unfit_options_are_refused() -> None:
    class Holder(Schema):
        backbone: BackboneConfig

    assert validate(Holder, {"backbone": "swin_t"}, "test").backbone == SwinConfig(name="swin_t")
    with pytest.raises(UserError, match="channels 48 do not divide into heads of 32"):
        validate(Holder, {"backbone": {"name": "swin_t", "channels": 48}}, "test")
    with pytest.raises(UserError, match=r"backbone\.window: 1 is not possible"):
        validate(Holder, {"backbone": {"name": "swin_t", "window": 1}}, "test")
    with pytest.raises(UserError, match="did you mean swin_t"):
        validate(Holder, {"backbone": "swin-t"}, "test")
