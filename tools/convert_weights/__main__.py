"""Convert published weights into ours: `python -m tools.convert_weights --from SOURCE [--cfg FILE] IN OUT`.

SOURCE: segformer (mit_b*.pth and whole models of the original release, and of later work on its code), mmseg
(backbone only: its SegFormer has another head), huggingface (hub files of either naming, encoder or whole model;
MaskFormer), torchvision (ResNet-50 and ResNet-101 of ImageNet, Faster R-CNN and Mask R-CNN on them), mmdet (the same
detectors and Panoptic FPN of mmdetection 2 and 3, and of later work on its code), swin (swin_*.pth of the original
release), timm (its Swin Transformers), depthformer (whole models of its authors' toolbox), maskformer (whole models
of its release), efficientnet (Lite0 with the names of EfficientNet-PyTorch, for timm's backbone).
IN: a file of PyTorch (.pth, .pt, .bin), .safetensors, or a pickle of arrays (.pkl). What training code wraps around a
model (DistributedDataParallel, torch.compile, Lightning, averages) is taken off. OUT: {"format", "source", "kind",
"model", "config"}, float32 tensors. A file of a whole model carries its configuration, so that it predicts, scores and
shows sampling by itself: the recipe of this model, if that has as many classes, or the one that --cfg names.
"""

from argparse import Namespace
from pathlib import Path

from config import check_config
from errors import ArgumentParser, UserError, read_early, run_command
from published.converters.names import NAMES


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.convert_weights", description=__doc__)
    parser.add_argument("--from", dest="source", required=True, choices=NAMES, help="where the file comes from")
    parser.add_argument("--cfg", type=Path, help="the configuration that a whole model fits; default: its recipe")
    parser.add_argument("input", type=Path, metavar="IN", help="the file to convert")
    parser.add_argument("output", type=Path, metavar="OUT", help="the file to write")
    arguments = parser.parse_args()
    check_config(arguments.cfg)
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import torch

from models.weights import FORMAT
from published.converters.reading import read_published
from published.converters.sources import convert
from storage import replace_atomically
from tools.convert_weights.settings import configuration


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if arguments.input.exists() and arguments.output.exists() and arguments.output.samefile(arguments.input):
        raise UserError(f"OUT {arguments.output}", "is the file to convert", "name another file")
    state, taken = read_published(arguments.input)
    converted = convert(arguments.source, state, arguments.input)
    kind, model, remark, *_ = converted
    config = configuration(converted, arguments.cfg)
    # torch.save would write the whole storage of a view
    own = {name: value.detach().clone() for name, value in model.items()}
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(arguments.output) as part:
            content = {"format": FORMAT, "source": arguments.source, "kind": kind, "model": own, "config": config}
            torch.save(content, part)
    except (OSError, RuntimeError) as error:
        raise UserError(arguments.output, f"cannot be written ({error})", "name a file that you may write") from None
    numbers = sum(value.numel() for value in model.values())
    remark += f"; taken: {taken}" if taken else ""
    if config is None and converted.settings is not None:
        remark += "; no recipe has so many classes: to predict with this file alone, name a configuration with --cfg"
    print(f"{arguments.output}: {kind}, {len(model)} tensors with {numbers:,} numbers; {remark}")


if __name__ == "__main__":
    run_command(main)
