"""Predict from Python: `Predictor("runs/seg_dysample")("photo.jpg").picture().save("prediction.png")`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

import structures
from datasets.base import ImageRange, Sample
from datasets.coco.masks import decode
from datasets.files.images import read_image
from datasets.loading import image_batches
from errors import UserError
from pictures import draw
from runtime.arithmetic import Precision
from runtime.distributed import start_processes
from structures import DatasetInfo, Instances, Size
from workflow.trained import find_checkpoint, load_predicting

Picture = str | Path | Image.Image | np.ndarray


class Predictor:
    """A trained model that takes pictures.

    model: a run folder (its best checkpoint), a checkpoint, a file of `tools.export_onnx --full`, which needs
    onnxruntime and runs on the CPU, or the name of a published model, which is fetched.
    overrides: `KEY=VALUE` settings that replace its own. device: auto, cpu or cuda. precision: of autocast, fp32, bf16
    or fp16; None: as trained. batch_size: pictures at a time; only pictures of one size share a batch. Raises UserError
    if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        overrides: Sequence[str] = (),
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Precision | None = None,
        batch_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError("batch_size", f"{batch_size} is not possible", "give 1 or more")
        settings = [*overrides, f"system.device={device}"]
        settings += [] if precision is None else [f"precision={precision}"]
        self._experiment, network, _ = load_predicting(find_checkpoint(Path(model)), None, settings)
        self._device = start_processes(self._experiment.system.device).device
        self._inference = self._experiment.inference(network.to(self._device).eval())
        self._batch_size = batch_size

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by label; empty for depth."""
        return self._experiment.data.info.classes

    @overload
    def __call__(self, pictures: Picture) -> "Prediction": ...
    @overload
    def __call__(self, pictures: list[Picture]) -> list["Prediction"]: ...
    def __call__(self, pictures: Picture | list[Picture]) -> "Prediction | list[Prediction]":
        """Predict for one picture, or for a list of them.

        A picture is a path, a PIL image, or an array [H, W, 3] uint8 in the order red, green, blue (OpenCV's arrays are
        in the order blue, green, red: turn them by `array[..., ::-1]`). Raises UserError for anything else.
        """
        if isinstance(pictures, Picture):
            return next(self.stream([pictures]))
        return list(self.stream(pictures))

    def stream(self, pictures: Sequence[Picture]) -> Iterator["Prediction"]:
        """Yield the predictions one after another, so that only one batch of them is in memory."""
        for start in range(0, len(pictures), self._batch_size):
            image_range = self._experiment.data.image_range
            images = [_pixels(picture, image_range) for picture in pictures[start : start + self._batch_size]]
            found = self._predict(images)
            yield from (
                Prediction(image, prediction, self._experiment.data.info)
                for image, prediction in zip(images, found, strict=True)
            )

    @torch.inference_mode()
    def _predict(self, images: list[np.ndarray]) -> list[structures.Prediction]:
        samples = [Sample(str(index), image.shape[:2], image) for index, image in enumerate(images)]
        found: dict[str, structures.Prediction] = {}
        for batch in image_batches(samples, self._inference.transforms, self._inference.size_divisor):
            with self._experiment.arithmetic(self._device):
                predictions = self._inference.predict(batch.to(self._device))
            ids = [target.image_id for target in batch.targets]
            found |= zip(ids, (prediction.to("cpu") for prediction in predictions), strict=True)
        return [found[sample.image_id] for sample in samples]


@dataclass(frozen=True)
class Prediction:
    """What a model has found in one picture, at the picture's own size (H, W).

    image: [H, W, 3] uint8, RGB. raw: the tensors, see `structures.Prediction`. info: task and classes. A field of
    another task is None.
    """

    image: np.ndarray
    raw: structures.Prediction
    info: DatasetInfo

    @property
    def task(self) -> str:
        """semantic, detection, instance, panoptic or depth."""
        return self.info.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by label."""
        return self.info.classes

    @property
    def semantic(self) -> np.ndarray | None:
        """The label of every pixel, [H, W] int16."""
        return _array(self.raw.semantic)

    @property
    def depth(self) -> np.ndarray | None:
        """The distance of every pixel, [H, W] float32, in metres."""
        return _array(self.raw.depth)

    @cached_property
    def objects(self) -> list["Object"] | None:
        """The objects with their scores, best first."""
        if self.raw.instances is None:
            return None
        return _objects(self.raw.instances, self.classes, self.image.shape[:2])

    @cached_property
    def segments(self) -> list["Segment"] | None:
        """The segments of a panoptic prediction; pixels that are in none are void."""
        if self.raw.panoptic is None:
            return None
        ids, labels = self.raw.panoptic.ids.numpy(), self.raw.panoptic.labels
        return [
            Segment(self.classes[label], self.info.things[label], ids == segment) for segment, label in labels.items()
        ]

    def picture(self) -> Image.Image:
        """The picture and the prediction side by side, with a legend."""
        return Image.fromarray(draw(self.image, self.raw, None, self.info))


@dataclass(frozen=True)
class Object:
    """One object. box: x1, y1, x2, y2 in pixels. score: 0 to 1. mask: [H, W] bool; None: the model predicts boxes."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None


@dataclass(frozen=True)
class Segment:
    """One segment. is_thing: an object that can be counted, or stuff. mask: [H, W] bool."""

    name: str
    is_thing: bool
    mask: np.ndarray


def _objects(found: Instances, classes: tuple[str, ...], size: Size) -> list[Object]:
    assert found.scores is not None
    result = []
    for index in found.scores.argsort(descending=True, stable=True).tolist():
        mask = None if found.rles is None else np.ascontiguousarray(decode([found.rles[index]], size)[0])
        x1, y1, x2, y2 = found.boxes[index].tolist()
        name = classes[int(found.labels[index])]
        result.append(Object(name, float(found.scores[index]), (x1, y1, x2, y2), mask))
    return result


def _pixels(picture: Picture, image_range: ImageRange) -> np.ndarray:
    """The picture as displayed, [H, W, 3] uint8, RGB. image_range: of files with more than 8 bits per channel."""
    if isinstance(picture, str | Path):
        return read_image(Path(picture), image_range)
    if isinstance(picture, Image.Image) and picture.mode[0] in "IF":  # Pillow would clip its values to 255
        raise UserError("picture", f"has mode {picture.mode}, more than 8 bits", "give its path, or 8 bits")
    if isinstance(picture, Image.Image):
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        return np.ascontiguousarray(picture)
    what = f"{type(picture).__name__} is not a picture"
    if isinstance(picture, np.ndarray):
        what = f"an array of shape {list(picture.shape)} and type {picture.dtype} is not a picture"
    raise UserError("picture", what, "give a path, a PIL image, or an array [H, W, 3] uint8 in RGB order")


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()
