"""The inputs that an export is proven with: pictures of several sizes, normalised and padded as a runtime has them."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from datasets.base import Sample
from datasets.scenes.layout import make_scene
from datasets.scenes.render import render
from errors import UserError
from experiment import Experiment
from structures import Size
from tools.export_onnx.graph import Graph
from tools.export_onnx.metadata import normalization
from tools.export_onnx.proof import Feeds

COUNT = 3
RENDERED = (96, 128)


def proof_inputs(experiment: Experiment, graph: Graph, divisor: int, *, dynamic: bool) -> list[Feeds]:
    """Three sets of inputs. They are of different odd sizes before they are padded.

    Without `dynamic` all of them are padded to the one size of the graph, with it to multiples of the divisor, and the
    first has as many images as the graph's example.
    """
    example = graph.inputs["images"]
    height, width = example.shape[2], example.shape[3]
    odd = [(height, width), (height - divisor // 2 - 1, width - 3), (3 * height // 4 | 1, 5 * width // 8 | 1)]
    if dynamic:
        odd[1], odd[2] = (odd[2][0], width - divisor - 3), (odd[2][1] + divisor, odd[2][0] + divisor)
    odd = [(max(size[0], 1), max(size[1], 1)) for size in odd]
    pictures = _pictures(experiment)
    cases = []
    for index, size in enumerate(odd):
        target = (height, width)
        if dynamic:
            target = -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor
        batch = example.shape[0] if index == 0 or not dynamic else 1
        images = torch.stack([_prepare(experiment, next(pictures), size, target) for _ in range(batch)])
        # Of the whole prediction: the size without padding, and an original size that is another.
        sizes = {"unpadded": torch.tensor(size), "size": torch.tensor([size[0] + 7, size[1] + 3])}
        cases.append({name: images if name == "images" else sizes[name] for name in graph.inputs})
    return cases


def _prepare(experiment: Experiment, picture: np.ndarray, size: Size, padded: Size) -> torch.Tensor:
    """A picture stretched to a size, normalised and padded, [3, H, W]."""
    picture = cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    sample = normalization(experiment).apply(Sample("", size, picture), np.random.default_rng(0))
    image = torch.from_numpy(sample.image).permute(2, 0, 1)
    return F.pad(image, (0, padded[1] - size[1], 0, padded[0] - size[0])).contiguous()


def _pictures(experiment: Experiment) -> Iterator[np.ndarray]:
    """Images of the validation split if it is there, else rendered rooms; [H, W, 3] uint8."""
    try:
        dataset = experiment.data.build("val")
        found = [dataset.load(index).image for index in range(min(COUNT, len(dataset)))]
    except UserError:
        found = []
    yield from found
    rng = np.random.default_rng(0)
    while True:
        yield render(make_scene(rng), RENDERED, rng).rgb
