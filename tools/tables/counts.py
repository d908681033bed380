"""Count parameters and multiply-accumulates of our models.

The models are built from their configurations on the meta device, so no weights and no data are needed.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experiment import Experiment, load_experiment
from models.base import DenseModel
from models.cost import complexity, shapes_only
from structures import Size
from upsamplers import SapaD, Upsampler

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@dataclass(frozen=True)
class Host:
    """A model of the paper, in which upsamplers are compared.

    device: where its forward pass can run; "meta" is free, since it computes nothing.
    """

    title: str
    config: str
    overrides: tuple[str, ...] = ()
    device: str = "meta"

    def experiment(self, upsampler: str) -> Experiment:
        """The experiment with an upsampler, given by its paper name or as a mapping in YAML."""
        return load_experiment(CONFIGS / f"{self.config}.yaml", [*self.overrides, f"model.upsampler={upsampler}"])


R101, FOUR_STAGES = "model.backbone=resnet101", "model.neck=fpn_p6"
# By table of the paper, and by variant: the part of a row's name before the upsampler.
HOSTS: dict[int, dict[str, Host]] = {
    4: {"": Host("SegFormer-B1", "seg_bilinear")},
    5: {
        "Swin-B": Host("MaskFormer Swin-B", "maskformer_swinb_nearest"),
        "Swin-L": Host("MaskFormer Swin-L", "maskformer_swinl_nearest"),
    },
    6: {"": Host("Faster R-CNN R50", "det_nearest"), "R101": Host("Faster R-CNN R101", "det_nearest", (R101,))},
    7: {  # the increments in the caption are those of four stages; the text says three, which is our default
        "": Host("Mask R-CNN R50, four stages", "inst_nearest", (FOUR_STAGES,)),
        "R101": Host("Mask R-CNN R101, four stages", "inst_nearest", (FOUR_STAGES, R101)),
        "three stages": Host("Mask R-CNN R50, three stages", "inst_nearest"),
        "R101, three stages": Host("Mask R-CNN R101, three stages", "inst_nearest", (R101,)),
    },
    8: {"": Host("Panoptic FPN R50", "pan_nearest"), "R101": Host("Panoptic FPN R101", "pan_nearest", (R101,))},
    9: {"": Host("DepthFormer Swin-T", "depth_bilinear", device="cpu")},  # its autocast refuses the meta device
}


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters. total, trainable: of the whole model. added: of its upsamplers.

    weights: of its upsamplers, without biases and norms.
    """

    total: int
    trainable: int
    added: int
    weights: int


@functools.cache
def count(host: Host, upsampler: str) -> Counts:
    """Count the parameters of a model with an upsampler."""
    model = _build_on_meta(host, upsampler)
    modules = upsamplers_of(model).values()
    return Counts(
        total=sum(parameter.numel() for parameter in model.parameters()),
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        added=sum(parameter.numel() for module in modules for parameter in module.parameters()),
        weights=sum(module.weight_count() for module in modules),
    )


@functools.cache
def added_macs(host: Host, upsampler: str) -> int:
    """MACs of the upsamplers for one training image."""
    height, width = input_size(host)
    strides = _strides(host)
    modules = upsamplers_of(_build_on_meta(host, upsampler))
    return sum(module.macs(height // strides[name], width // strides[name]) for name, module in modules.items())


def indexnet_macs_with_norms(host: Host) -> int:
    """`added_macs` of IndexNet if its BatchNorm is counted too: one multiplication and one addition per value."""
    (height, width), strides = input_size(host), _strides(host)
    norms = 0
    for name, module in upsamplers_of(_build_on_meta(host, "indexnet")).items():
        features = sum(part.num_features for part in module.modules() if isinstance(part, nn.BatchNorm2d))
        norms += 2 * features * (height // strides[name]) * (width // strides[name])
    return added_macs(host, "indexnet") + norms


def sapa_macs_with_eight(host: Host) -> int:
    """`added_macs` of SAPA-D if it takes 8 operations to read a value between pixels, instead of 11."""
    (height, width), strides = input_size(host), _strides(host)
    values = 0
    for name, module in upsamplers_of(_build_on_meta(host, "sapa-d")).items():
        assert isinstance(module, SapaD)
        per_pixel = module.scale**2 * module.points * (module.q.out_channels + module.channels)
        values += per_pixel * (height // strides[name]) * (width // strides[name])
    return added_macs(host, "sapa-d") - 3 * values


@functools.cache
def whole_macs(host: Host, upsampler: str) -> int:
    """MACs of the whole model for one training image."""
    with torch.device("meta"):
        macs: int = complexity(_build_on_meta(host, upsampler), input_size(host))["macs"]
    return macs


def input_size(host: Host) -> Size:
    """(height, width) of a training image, padded for the model."""
    return host.experiment("nearest").padded_input(_build_on_meta(host, "nearest"))


def stage_with_unused_branch(host: Host) -> int:
    """Parameters of A2U's first stage plus a second kernel branch, which older published modules hold but never use."""
    stage = next(iter(upsamplers_of(_build_on_meta(host, "a2u")).values()))
    branch = stage.get_submodule("bconv_UP")
    return sum(parameter.numel() for part in (stage, branch) for parameter in part.parameters())


def upsamplers_of(model: nn.Module) -> dict[str, Upsampler]:
    """The upsamplers of a model by module name. The names do not depend on the kind of upsampler."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Upsampler)}


@functools.cache
def _build_on_meta(host: Host, upsampler: str) -> DenseModel:
    with shapes_only():
        return host.experiment(upsampler).build_model(pretrained=False)


@functools.cache
def _strides(host: Host) -> dict[str, int]:
    """The stride of the input of each upsampler, in pixels of the image, by module name."""
    side, strides = 128, {}

    def record(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        strides[name] = side // inputs[0].shape[-1]

    with torch.device(host.device), torch.inference_mode():
        model = host.experiment("nearest").build_model(pretrained=False).eval()
        for name, module in upsamplers_of(model).items():
            module.register_forward_pre_hook(functools.partial(record, name))
        model.outputs(torch.zeros(1, 3, side, side))
    return strides
