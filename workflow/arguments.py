"""The command lines of train.py and eval.py. Imports nothing that takes long, so that they can be read first of all."""

from argparse import Namespace
from pathlib import Path

from config import parse_with_overrides
from errors import ArgumentParser


def training_arguments(description: str | None) -> Namespace:
    """The arguments of train.py. Raises UserError."""
    parser = ArgumentParser(prog="train.py", description=description)
    parser.add_argument("--cfg", type=Path, required=True, help="a YAML file, for example configs/seg_dysample.yaml")
    parser.add_argument("--check", action="store_true", help="try one batch, print the plan and exit")
    return parse_with_overrides(parser)


def add_model(parser: ArgumentParser, *names: str, metavar: str = "CHECKPOINT") -> None:
    """Add the argument that names a trained model, for other commands too. Its value is `checkpoint`."""
    what = "a checkpoint, the folder of a run, or the name of a published model, or an exported file"
    parser.add_argument(*names, dest="checkpoint", type=Path, required=True, metavar=metavar, help=what)


def evaluation_arguments(description: str | None) -> Namespace:
    """The arguments of eval.py. Raises UserError."""
    parser = ArgumentParser(prog="eval.py", description=description)
    add_model(parser, "--checkpoint", "--onnx")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--cfg", type=Path, help="another configuration than the checkpoint's own")
    parser.add_argument("--json", type=Path, help="write the result record to this file")
    parser.add_argument("--predictions", type=Path, help="write the predictions to this folder")
    return parse_with_overrides(parser)
