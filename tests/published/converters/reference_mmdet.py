"""State dicts under mmdetection's names, for networks that are described by the shapes of their layers alone."""

import torch
from torch import Tensor

State = dict[str, Tensor]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Names:
    """Draws tensors, each different from all others, under names."""

    def __init__(self) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, bias: bool = True) -> None:
        self.state[f"{name}.weight"] = torch.rand(shape, generator=self.generator)
        if bias:
            self.state[f"{name}.bias"] = torch.rand(shape[0], generator=self.generator)

    def norm(self, name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{name}.{part}"] = torch.rand(channels, generator=self.generator) + 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def detector(
    num_classes: int = 80, depth: int = 50, masks: bool = False, p6: bool = False, stuff: int | None = None
) -> State:
    """A Faster or Mask R-CNN on the plain pyramid, or with P6 on its way down, but for the pyramid's upsamplers.

    stuff: with the semantic head of a Panoptic FPN for so many stuff classes.
    """
    names = Names()
    _resnet(names, depth)
    for level, width in enumerate((256, 512, 1024, 2048)):
        names.draw(f"neck.lateral_convs.{level}.conv", 256, width, 1, 1)
    if p6:
        names.draw("neck.lateral_convs.4.conv", 256, 2048, 3, 3)
    for level in range(5 if p6 else 4):
        names.draw(f"neck.fpn_convs.{level}.conv", 256, 256, 3, 3)
    names.draw("rpn_head.rpn_conv", 256, 256, 3, 3)
    names.draw("rpn_head.rpn_cls", 3, 256, 1, 1)
    names.draw("rpn_head.rpn_reg", 12, 256, 1, 1)
    names.draw("roi_head.bbox_head.fc_cls", num_classes + 1, 1024)
    names.draw("roi_head.bbox_head.fc_reg", 4 * num_classes, 1024)
    names.draw("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    names.draw("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    if masks:
        for index in range(4):
            names.draw(f"roi_head.mask_head.convs.{index}.conv", 256, 256, 3, 3)
        names.draw("roi_head.mask_head.upsample", 256, 256, 2, 2)
        names.draw("roi_head.mask_head.conv_logits", num_classes, 256, 1, 1)
    if stuff is not None:
        for level, units in enumerate((1, 1, 2, 3)):
            for unit in range(units):
                name = f"semantic_head.conv_upsample_layers.{level}.conv.{unit}"
                names.draw(f"{name}.conv", 128, 256 if unit == 0 else 128, 3, 3, bias=False)
                for part in ("weight", "bias"):
                    names.state[f"{name}.gn.{part}"] = torch.rand(128, generator=names.generator)
        names.draw("semantic_head.conv_logits", stuff + 1, 128, 1, 1)
    return names.state


def upsamplers(number: int, prefix: str, **shapes: tuple[int, ...]) -> State:
    """Tensors of the pyramid's upsamplers. shapes: of one module's tensors; two underscores stand for a dot."""
    generator = torch.Generator().manual_seed(1)
    return {
        f"{prefix}{index}.{name.replace('__', '.')}": START
        if name == "init_pos"
        else torch.rand(shape, generator=generator)
        for index in range(number)
        for name, shape in shapes.items()
    }


# Of DySample's positions: x, then y, each for four groups of sub-pixels.
START = torch.tensor([*[-0.25, 0.25, -0.25, 0.25] * 4, *[-0.25, -0.25, 0.25, 0.25] * 4]).reshape(1, 32, 1, 1)


CARAFE = {
    "channel_compressor__weight": (64, 256, 1, 1),
    "channel_compressor__bias": (64,),
    "content_encoder__weight": (100, 64, 3, 3),
    "content_encoder__bias": (100,),
}
DYSAMPLE = {"offset__weight": (32, 256, 1, 1), "offset__bias": (32,), "init_pos": (1, 32, 1, 1)}
DYSAMPLE_PLUS_EARLY = DYSAMPLE | {"scope__weight": (32, 256, 1, 1), "scope__bias": (32,)}


def _resnet(names: Names, depth: int) -> None:
    names.draw("backbone.conv1", 64, 3, 7, 7, bias=False)
    names.norm("backbone.bn1", 64)
    before = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"backbone.layer{stage + 1}.{block}"
            for index, shape in enumerate([(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]):
                names.draw(f"{name}.conv{index + 1}", *shape, bias=False)
                names.norm(f"{name}.bn{index + 1}", shape[0])
            if block == 0:
                names.draw(f"{name}.downsample.0", 4 * width, before, 1, 1, bias=False)
                names.norm(f"{name}.downsample.1", 4 * width)
            before = 4 * width
