"""The transforms of a sample, as the YAML lists them: the geometric ones, and the lists of all.

Every transform is a config record. Its `apply` draws random numbers only from the sample's own generator, in the order
that the docstring of its class gives. To add a transform, write its class here (or in `colour.py`) and list it in
`TransformConfig`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat

from config import Fraction, expand_word
from datasets.base import FactorRange, Sample, Transform
from datasets.colour import GammaJitter, Normalize, PhotometricDistortion
from datasets.geometry import Side, crop, flip, pad, resize, rotate, scaled_size
from errors import UserError
from structures import IGNORE

# --- geometry --------------------------------------------------------------------------------------------------------


class ResizeRandom(Transform):
    """Resize to fit into (long, short) times a random factor, keeping the aspect ratio (mmsegmentation's Resize).

    Draws: the factor, uniform in ratio_range.
    """

    name: Literal["resize_random"] = "resize_random"
    long: Side
    short: Side
    ratio_range: FactorRange

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        low, high = self.ratio_range
        factor = low + (high - low) * rng.random()
        return _resize_to_fit(sample, int(self.long * factor), int(self.short * factor))


class ResizeFit(Transform):
    """Resize to the largest size that fits into (long, short), keeping the aspect ratio. Draws nothing."""

    name: Literal["resize_fit"] = "resize_fit"
    long: Side
    short: Side

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        return _resize_to_fit(sample, self.long, self.short)


def _resize_to_fit(sample: Sample, long: int, short: int) -> Sample:
    height, width = sample.image.shape[:2]
    scale = min(max(long, short) / max(height, width), min(long, short) / min(height, width))
    return resize(sample, scaled_size((height, width), scale))


class ResizeToMultiple(Transform):
    """Stretch both sides to the next multiple of `multiple` (SegFormer's aligned test resize). Draws nothing."""

    name: Literal["resize_to_multiple"] = "resize_to_multiple"
    multiple: Side

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        height, width = (-(-side // self.multiple) * self.multiple for side in sample.image.shape[:2])
        return resize(sample, (height, width))


class ResizeShortest(Transform):
    """Resize the shortest side to one of `sizes`, or less where the longest would exceed `longest`; antialiased.

    As in detectron2.

    Draws: the index of the size, if there are several.
    """

    needs_uint8 = True
    name: Literal["resize_shortest"] = "resize_shortest"
    sizes: Annotated[tuple[Side, ...], Field(min_length=1)]
    longest: Side

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        shortest = self.sizes[rng.integers(len(self.sizes))] if len(self.sizes) > 1 else self.sizes[0]
        height, width = sample.image.shape[:2]
        scale = min(shortest / min(height, width), self.longest / max(height, width))
        return resize(sample, scaled_size((height, width), scale), antialias=True)


class RandomCrop(Transform):
    """A random window of at most `size`, (height, width).

    max_class_share: draw a new window, up to ten times, until at least two classes are present and each has less than
    this share of the labelled pixels; the eleventh window is used in any case. Draws: top and left of each window.
    """

    name: Literal["random_crop"] = "random_crop"
    size: tuple[Side, Side]
    max_class_share: Annotated[float, Field(gt=0, le=1)] | None = None

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        window = self._draw(sample, rng)
        if self.max_class_share is None:
            return window
        for _ in range(10):
            if _is_mixed(window, self.max_class_share):
                break
            window = self._draw(sample, rng)
        return window

    def _draw(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[:2]
        top = int(rng.integers(max(height - self.size[0], 0) + 1))
        left = int(rng.integers(max(width - self.size[1], 0) + 1))
        return crop(sample, top, left, self.size)


def _is_mixed(sample: Sample, max_share: float) -> bool:
    if sample.semantic is None:
        raise UserError(
            "data.train_transforms.random_crop.max_class_share",
            "needs semantic labels, which this data does not have",
            "set it to null",
        )
    values = (sample.semantic - np.int16(IGNORE)).view(np.uint16)  # 0: ignored
    bins = int(values.max(initial=0)) + 1
    counts = cv2.calcHist([values], [0], None, [bins], [0, bins])[1:]  # float32, exact up to 2**24 pixels
    return bool(np.count_nonzero(counts) > 1 and counts.max() < max_share * counts.sum())


class CropWindow(Transform):
    """The window of `size`, (height, width), at (top, left). Draws nothing. UserError if an image is too small."""

    name: Literal["crop_window"] = "crop_window"
    top: NonNegativeInt
    left: NonNegativeInt
    size: tuple[Side, Side]

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        bottom, right = self.top + self.size[0], self.left + self.size[1]
        height, width = sample.image.shape[:2]
        if bottom > height or right > width:
            what = f"image {sample.image_id} is {width} x {height}, the window reaches to column {right}, row {bottom}"
            raise UserError("crop_window", what, "take it out of data.train_transforms, or set it for your images")
        return crop(sample, self.top, self.left, self.size)


class RandomFlip(Transform):
    """Mirror left to right. Draws: one number in [0, 1), compared with the probability."""

    name: Literal["random_flip"] = "random_flip"
    probability: Fraction = 0.5

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        return flip(sample) if rng.random() < self.probability else sample


class RandomRotate(Transform):
    """Rotate about the centre by up to `degrees` in either direction, at the same size; corners are black, unlabelled.

    Draws: one number in [0, 1), compared with the probability; if the image is rotated, the angle, uniform.
    """

    needs_uint8 = True  # so that 0 is black
    name: Literal["random_rotate"] = "random_rotate"
    degrees: PositiveFloat = 2.5
    probability: Fraction = 0.5

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        if rng.random() >= self.probability:
            return sample
        return rotate(sample, rng.uniform(-self.degrees, self.degrees))


class Pad(Transform):
    """Extend at the bottom and the right to at least `size`, (height, width). Draws nothing.

    fill: value of new image pixels, in the image's current units: grey levels before `normalize`, standard deviations
    after it.
    """

    name: Literal["pad"] = "pad"
    size: tuple[Side, Side]
    fill: float = 0

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        return pad(sample, self.size, self.fill)


# --- lists -----------------------------------------------------------------------------------------------------------


def _check_normalized_once(transforms: tuple[Transform, ...]) -> tuple[Transform, ...]:
    names = [transform.name for transform in transforms]
    if names.count("normalize") != 1:
        raise ValueError(f"normalize is listed {names.count('normalize')} times; list it exactly once")
    for transform in transforms[names.index("normalize") + 1 :]:
        if transform.needs_uint8:
            raise ValueError(f"{transform.name} comes after normalize but works on grey levels; put it before")
    return transforms


TransformConfig = Annotated[
    ResizeRandom
    | ResizeFit
    | ResizeToMultiple
    | ResizeShortest
    | RandomCrop
    | CropWindow
    | RandomFlip
    | RandomRotate
    | PhotometricDistortion
    | GammaJitter
    | Normalize
    | Pad,
    Field(discriminator="name"),
    BeforeValidator(expand_word),
]
# At test time the model must see the whole image, so that predictions can be resized to the original size.
TestTransformConfig = Annotated[
    ResizeFit | ResizeToMultiple | ResizeShortest | Normalize, Field(discriminator="name"), BeforeValidator(expand_word)
]
TrainTransforms = Annotated[tuple[TransformConfig, ...], AfterValidator(_check_normalized_once)]
TestTransforms = Annotated[tuple[TestTransformConfig, ...], AfterValidator(_check_normalized_once)]


def divide(transforms: Sequence[Transform]) -> tuple[tuple[Transform, ...], Normalize | None, tuple[Pad, ...]]:
    """The transforms, without a normalisation that can be left to the device, and without the padding after it.

    It can where only windows and mirroring follow, which take pixels as they are, and then padding with 0. Elsewhere it
    stays among the transforms: the rest is None and ().
    """
    place = next((index for index, transform in enumerate(transforms) if isinstance(transform, Normalize)), None)
    if place is None:
        return tuple(transforms), None, ()
    normalize, after = transforms[place], transforms[place + 1 :]
    moving = [transform for transform in after if isinstance(transform, RandomCrop | CropWindow | RandomFlip)]
    padding = tuple(transform for transform in after if isinstance(transform, Pad) and transform.fill == 0)
    assert isinstance(normalize, Normalize)
    if [*moving, *padding] != [*after]:
        return tuple(transforms), None, ()
    return (*transforms[:place], *moving), normalize, padding


def apply_all(transforms: tuple[Transform, ...], sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample after all transforms, applied in order."""
    for transform in transforms:
        sample = transform.apply(sample, rng)
    return sample
