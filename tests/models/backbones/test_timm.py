"""Backbones of timm: levels of many families, sizes, normalisation, frozen parts. No network is needed."""

import pytest
import timm
import torch
from torch import Tensor, nn

from config import Schema, validate
from errors import UserError
from models.backbones.resnet import ResNet
from models.backbones.timm import IMAGENET_MEAN, IMAGENET_STD, TimmBackbone, TimmConfig, conversion
from models.components import BackboneConfig

# Small members of many families: with a level at stride 2 first, with channels last, with windows, hybrid ones, and
# plain transformers with learned and rotary positions and with patches of 14 and 16 pixels.
FAMILIES = [
    *("test_convnext", "test_resnet", "test_efficientnet", "mobilenetv3_small_050", "mobilenetv4_conv_small_035"),
    *("regnetx_002", "edgenext_xx_small", "pvt_v2_b0", "test_vit", "eva02_tiny_patch14_224"),
]
LARGER_FAMILIES = [
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224", "test_maxvit"),
    *("vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "davit_tiny", "mvitv2_tiny", "hrnet_w18_small"),
    *("densenet121", "caformer_s18", "vit_base_patch32_clip_224", "samvit_base_patch16", "convmixer_768_32"),
]


def build(model: str, seed: int = 0, **options: object) -> TimmBackbone:
    torch.manual_seed(seed)
    return TimmConfig.model_validate({"model": model, "weights": None, **options}).build()


def shapes(levels: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(level.shape) for level in levels]


# --- families and sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER_FAMILIES)]
)
def test_every_family_gives_four_levels_of_an_odd_size_and_learns(model: str) -> None:
    backbone = build(model)
    assert [stride for _, stride in backbone.feature_info] == [4, 8, 16, 32]
    levels = backbone(torch.randn(2, 3, 75, 101))
    assert shapes(levels) == [(2, width, -(-75 // each), -(-101 // each)) for width, each in backbone.feature_info]
    sum(level.square().mean() for level in levels).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_what_lies_beyond_the_image_is_zero_padding() -> None:
    backbone = build("test_convnext").eval()
    images = torch.zeros(1, 3, 64, 96)
    images[:, :, :40, :70].normal_()
    for cropped, whole in zip(backbone(images[:, :, :40, :70]), backbone(images), strict=True):
        torch.testing.assert_close(cropped, whole[:, :, : cropped.shape[2], : cropped.shape[3]])


def test_images_are_padded_to_whole_windows_where_a_network_needs_that() -> None:
    assert build("test_maxvit").anatomy.step == (160, 160)
    assert build("test_convnext").anatomy.step == (32, 32)


def test_a_network_that_takes_one_size_pads_smaller_images_and_refuses_larger_ones() -> None:
    backbone = build("test_coatnet")
    assert backbone.anatomy.only_size == (160, 160)
    assert backbone(torch.randn(1, 3, 100, 64))[0].shape[2:] == (25, 16)
    with pytest.raises(UserError, match=r"up to 160 x 160 pixels, and got 160 x 192.*image_size=\[160, 192\]"):
        backbone(torch.randn(1, 3, 160, 192))


def test_image_size_builds_such_a_network_for_another_size() -> None:
    backbone = build("test_coatnet", image_size=[160, 192])
    assert backbone(torch.randn(1, 3, 160, 192))[3].shape[2:] == (5, 6)


def test_patches_of_14_pixels_see_the_image_at_14_16_of_its_size() -> None:
    backbone, seen = build("eva02_tiny_patch14_224"), []
    backbone.body.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    backbone.remove_pyramid()
    (level,) = backbone(torch.randn(1, 3, 64, 96))
    assert seen == [(1, 3, 56, 84)]
    assert level.shape == (1, 192, 4, 6)


def test_each_patch_of_14_pixels_is_where_16_pixels_of_the_image_were() -> None:
    backbone = build("eva02_tiny_patch14_224")
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)  # the value of a pixel is its column
    patches = backbone._resize_to_patches(ramp)[0, 0, 0].view(4, 14).mean(1)
    torch.testing.assert_close(patches, torch.tensor([7.5, 23.5, 39.5, 55.5]), rtol=0, atol=0.1)


def test_the_map_of_a_plain_transformer_is_its_last_one_normalised() -> None:
    backbone = build("test_vit").eval()
    reference = timm.create_model("test_vit", num_classes=0, img_size=(64, 96), global_pool="").eval()
    state = {name: value for name, value in backbone.body.state_dict().items() if name != "pos_embed"}
    reference.load_state_dict(state, strict=False)
    nn.init.zeros_(reference.pos_embed)
    nn.init.zeros_(backbone.body.pos_embed)
    images = torch.randn(2, 3, 64, 96)
    backbone.remove_pyramid()
    (level,) = backbone(images)
    inputs = images if backbone.factor is None else images * backbone.factor + backbone.shift
    expected = reference(inputs)[:, reference.num_prefix_tokens :].transpose(1, 2).reshape(2, -1, 4, 6)
    torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["levit_128s", "crossvit_tiny_240", "visformer_tiny"])
def test_a_network_without_these_strides_is_refused(model: str) -> None:
    with pytest.raises(UserError, match=r"gives no levels at strides 4, 8, 16 and 32 \(its levels are at strides"):
        build(model)


def test_resnet50_has_the_features_of_our_own() -> None:
    theirs = build("resnet50").eval()
    generator = torch.Generator().manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.3, 0.6, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    ours = ResNet("resnet50", frozen=0)
    state = {name: value for name, value in theirs.body.state_dict().items() if "num_batches" not in name}
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96, generator=generator)
    with torch.no_grad():
        for left, right in zip(theirs(images), ours(images), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_clip_224.openai"])
def test_images_are_converted_to_the_statistics_of_the_weights(model: str) -> None:
    publication = timm.get_pretrained_cfg(model).to_dict()
    assert publication["mean"] != IMAGENET_MEAN
    factor, shift = conversion(publication)
    rgb = torch.rand(1, 3, 32, 32)
    own = (rgb - column(IMAGENET_MEAN)) / column(IMAGENET_STD)
    expected = (rgb - column(publication["mean"])) / column(publication["std"])
    torch.testing.assert_close(own * factor + shift, expected)


def column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def test_the_network_sees_converted_images() -> None:
    backbone, seen = build("vit_tiny_patch16_224.augreg_in21k_ft_in1k").eval(), []
    backbone.body.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    white = torch.full((1, 3, 32, 32), 1.0)
    backbone((white - column(IMAGENET_MEAN)) / column(IMAGENET_STD))
    torch.testing.assert_close(seen[0], white)  # (1 - 0.5) / 0.5


def test_images_may_have_other_channels() -> None:
    for model in ("test_resnet", "test_vit"):
        backbone = build(model, in_chans=5, pyramid_upsampler="sapa").eval()
        assert backbone.in_channels == 5
        assert len(backbone(torch.randn(1, 5, 32, 32))) == 4


# --- training --------------------------------------------------------------------------------------------------------


def trainable(backbone: TimmBackbone) -> set[str]:
    return {name for name, parameter in backbone.body.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("model", "frozen", "first_trained"),
    [
        ("test_resnet", 1, "layer2.0.conv1.weight"),
        ("test_convnext", 2, "stages_2.downsample.0.weight"),
        ("test_efficientnet", 1, "blocks.2.0.conv_exp.weight"),
        pytest.param("hiera_tiny_224", 1, "model.blocks.1.norm1.weight", marks=pytest.mark.slow),
        ("test_vit", 3, "blocks.3.norm1.weight"),
    ],
)
def test_the_first_stages_keep_their_weights(model: str, frozen: int, first_trained: str) -> None:
    backbone = build(model, frozen=frozen)
    own = [name for name, _ in backbone.body.named_parameters()]
    place = own.index(first_trained)
    assert trainable(backbone) == set(own[place:])


def test_frozen_parts_are_in_evaluation_mode_and_the_others_in_training_mode() -> None:
    backbone = build("test_resnet", frozen=2).train()
    before = {name: value.clone() for name, value in backbone.body.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    changed = {
        name.split(".")[0] for name, value in backbone.body.named_buffers() if not torch.equal(value, before[name])
    }
    assert changed == {"layer3", "layer4"}


def test_all_freezes_the_network_and_leaves_the_pyramid() -> None:
    backbone = build("test_vit", frozen="all").train()
    assert trainable(backbone) == set()
    assert not any(module.training for module in backbone.body.modules())
    assert all(parameter.requires_grad for parameter in backbone.pyramid.parameters())
    assert backbone.pyramid.training


def test_batch_norms_keep_their_statistics_if_asked() -> None:
    backbone = build("test_resnet", fixed_statistics=True).train()
    before = {name: value.clone() for name, value in backbone.body.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in backbone.body.named_buffers())
    assert len(trainable(backbone)) == len(list(backbone.body.parameters()))


def test_more_stages_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(UserError, match=r"model.backbone.frozen: test_resnet has 4 stages"):
        build("test_resnet", frozen=5)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
def test_checkpointing_changes_no_gradient(model: str) -> None:
    images, gradients = torch.randn(2, 3, 64, 64), []
    for checkpointing in (False, True):
        backbone = build(model, checkpointing=checkpointing)
        sum(level.square().mean() for level in backbone(images)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in backbone.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_options_that_a_network_does_not_have_are_refused() -> None:
    assert build("test_vit", drop_path=0.3).body.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    with pytest.raises(UserError, match=r"model\.backbone\.drop_path: vgg11 has no such option; remove it"):
        build("vgg11", drop_path=0.3)


def test_a_backbone_draws_the_same_weights_whether_or_not_its_network_was_inspected_before() -> None:
    from models.backbones import timm_library

    timm_library.inspect.cache_clear()
    first, second = build("test_resnet").state_dict(), build("test_resnet").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("convnext_tinny", r"has no model convnext_tinny; did you mean convnext_tiny\?"),
        ("convnext_tiny.fb_in22k_ft_in1", r"has no weights .*; did you mean convnext_tiny\.fb_in22k_ft_in1k\?"),
        ("xxxxxxxxxxxx", r"see timm\.list_models\(\) in Python"),
    ],
)
def test_unknown_names_get_suggestions(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(model)


def test_options_are_checked_with_the_configuration() -> None:
    class Holder(Schema):
        backbone: BackboneConfig

    def read(**options: object) -> TimmConfig:
        record = validate(Holder, {"backbone": {"name": "timm", "model": "test_vit", **options}}, "test").backbone
        assert isinstance(record, TimmConfig)
        return record

    assert read(pyramid_upsampler="dysample+", frozen="all").pyramid_upsampler.dyscope
    with pytest.raises(UserError, match=r"frozen"):
        read(frozen="everything")
    with pytest.raises(UserError, match=r"pyramid_upsampler.*did you mean 'dysample'"):
        read(pyramid_upsampler="dysampel")
