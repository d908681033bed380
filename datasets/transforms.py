"""The transforms of a sample, as the YAML lists them.

Every transform is a record whose `apply` takes its random numbers, in the order that its docstring gives, from the
generator of the sample alone. A new one is a class here and a word in `TransformConfig`.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat

from config import Fraction, Schema, expand_word
from datasets.base import Sample
from datasets.geometry import Side, cropped, flipped, padded, resized, rotated, scaled_size
from errors import UserError
from structures import IGNORE


def _check_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{list(limits)} is no range; write the smaller number first")
    return limits


FactorRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_check_order)]
HueRange = Annotated[tuple[int, int], AfterValidator(_check_order)]


class Transform(Schema, ABC):
    """Sample in, sample out. needs_uint8: whether the image must not have been normalised yet."""

    needs_uint8: ClassVar[bool] = False
    name: str

    @abstractmethod
    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample; the given one stays as it is."""


# --- sizes -----------------------------------------------------------------------------------------------------------


class ResizeRandom(Transform):
    """Fit into (long, short) times a random factor, keeping the aspect ratio (mmsegmentation's Resize).

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
        return _fitted(sample, int(self.long * factor), int(self.short * factor))


class ResizeFit(Transform):
    """The largest size that fits into (long, short), keeping the aspect ratio. Draws nothing."""

    name: Literal["resize_fit"] = "resize_fit"
    long: Side
    short: Side

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        return _fitted(sample, self.long, self.short)


def _fitted(sample: Sample, long: int, short: int) -> Sample:
    height, width = sample.image.shape[:2]
    scale = min(max(long, short) / max(height, width), min(long, short) / min(height, width))
    return resized(sample, scaled_size((height, width), scale))


class ResizeToMultiple(Transform):
    """Stretch both sides up to the next multiple (SegFormer's aligned test resize). Draws nothing."""

    name: Literal["resize_to_multiple"] = "resize_to_multiple"
    multiple: Side

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        height, width = (-(-side // self.multiple) * self.multiple for side in sample.image.shape[:2])
        return resized(sample, (height, width))


class ResizeShortest(Transform):
    """Bring the shortest side to one of `sizes`, but the longest to at most `longest`, antialiased (detectron2).

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
        return resized(sample, scaled_size((height, width), scale), antialias=True)


class RandomCrop(Transform):
    """A random window of at most `size`, (height, width).

    max_class_share: draw anew, up to ten times, until two classes are present and none has this share of the labelled
    pixels; the eleventh window is taken as it comes. Draws: top, left; again for each new window.
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
        return cropped(sample, top, left, self.size)


def _is_mixed(sample: Sample, max_share: float) -> bool:
    if sample.semantic is None:
        raise UserError(
            "random_crop.max_class_share", "needs semantic labels, which this data has not", "set it to null"
        )
    counts = np.bincount(sample.semantic[sample.semantic != IGNORE])
    return bool(np.count_nonzero(counts) > 1 and counts.max() < max_share * counts.sum())


class CropWindow(Transform):
    """The window of `size`, (height, width), at (top, left). Draws nothing. UserError if an image does not hold it."""

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
        return cropped(sample, self.top, self.left, self.size)


class RandomFlip(Transform):
    """Mirror left to right. Draws: one number in [0, 1), compared with the probability."""

    name: Literal["random_flip"] = "random_flip"
    probability: Fraction = 0.5

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        return flipped(sample) if rng.random() < self.probability else sample


class RandomRotate(Transform):
    """Turn about the centre by up to `degrees` either way, at the same size; corners become black and unlabelled.

    Draws: whether, one number in [0, 1) compared with the probability; if so, the angle, uniform.
    """

    needs_uint8 = True  # so that 0 is black
    name: Literal["random_rotate"] = "random_rotate"
    degrees: PositiveFloat = 2.5
    probability: Fraction = 0.5

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        if rng.random() >= self.probability:
            return sample
        return rotated(sample, rng.uniform(-self.degrees, self.degrees))


class Pad(Transform):
    """Extend at the bottom and the right to at least `size`, (height, width).

    fill: of the image, in its units at this point: grey levels before `normalize`, standard deviations after it.
    """

    name: Literal["pad"] = "pad"
    size: tuple[Side, Side]
    fill: float = 0

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        return padded(sample, self.size, self.fill)


# --- colours ---------------------------------------------------------------------------------------------------------


class PhotometricDistortion(Transform):
    """Random brightness, contrast, saturation and hue (Liu et al., SSD, ECCV 2016), uint8 after every step.

    brightness: largest shift in grey levels. contrast, saturation: ranges of factors. hue: smallest and largest shift,
    in OpenCV's 180 steps around the circle (mmsegmentation: -18, 17; detectron2's SSD augmentation: -18, 18).
    Contrast comes before saturation and hue or after them. Draws: for brightness, contrast, saturation, hue in this
    order: whether, and if so how much; before brightness: whether contrast comes early.
    """

    needs_uint8 = True
    name: Literal["photometric_distortion"] = "photometric_distortion"
    brightness: Annotated[float, Field(ge=0)] = 32
    contrast: FactorRange = (0.5, 1.5)
    saturation: FactorRange = (0.5, 1.5)
    hue: HueRange = (-18, 17)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        early = rng.random() < 0.5
        image = sample.image
        if rng.random() < 0.5:
            image = _linear(image, shift=rng.uniform(-self.brightness, self.brightness))
        contrast = rng.uniform(*self.contrast) if rng.random() < 0.5 else 1.0
        if early:
            image = _linear(image, factor=contrast)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = _linear(hsv[..., 1], factor=rng.uniform(*self.saturation))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            shift = rng.integers(self.hue[0], self.hue[1], endpoint=True)
            hsv[..., 0] = (hsv[..., 0].astype(np.int64) + shift) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not early:
            image = _linear(image, factor=contrast)
        return replace(sample, image=image)


def _linear(image: np.ndarray, factor: float = 1, shift: float = 0) -> np.ndarray:
    """Clipped to 0..255 and cut, not rounded, to uint8, as in mmsegmentation."""
    if factor == 1 and shift == 0:
        return image
    table = np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


class GammaJitter(Transform):
    """Grey levels to a random power, times a random brightness and a random factor per channel (DepthFormer's, on NYU).

    The power is that of 0..255, so it changes the brightness much: gamma 1.1 makes 158 of 100, and 0.9 makes 63 (BTS,
    where this comes from, takes it on 0..1). The result is clipped and, unlike the original, rounded to grey levels.
    Draws: whether; if so gamma, brightness, factors of red, green, blue, each uniform in its range.
    """

    needs_uint8 = True
    name: Literal["gamma_jitter"] = "gamma_jitter"
    probability: Fraction = 0.5
    gamma: FactorRange = (0.9, 1.1)
    brightness: FactorRange = (0.75, 1.25)
    channels: FactorRange = (0.9, 1.1)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        if rng.random() >= self.probability:
            return sample
        gamma, brightness = rng.uniform(*self.gamma), rng.uniform(*self.brightness)
        factors = brightness * np.array([rng.uniform(*self.channels) for _ in range(3)])
        table = (np.arange(256)[:, None] ** gamma * factors).clip(0, 255)
        return replace(sample, image=cv2.LUT(sample.image, np.rint(table).astype(np.uint8)[None]))


class Normalize(Transform):
    """(image - mean) / std per channel, RGB on 0..255, as float32. Defaults: ImageNet's."""

    needs_uint8 = True
    name: Literal["normalize"] = "normalize"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        table = (np.arange(256, dtype=np.float32)[:, None] - mean) / std  # of 256 values each pixel has one
        image = cv2.LUT(sample.image, table[None])
        return replace(sample, image=image)


# --- lists of them ---------------------------------------------------------------------------------------------------


def _check_normalized_once(transforms: tuple[Transform, ...]) -> tuple[Transform, ...]:
    names = [transform.name for transform in transforms]
    if names.count("normalize") != 1:
        raise ValueError(f"normalize is there {names.count('normalize')} times; list it exactly once")
    for late in transforms[names.index("normalize") + 1 :]:
        if late.needs_uint8:
            raise ValueError(f"{late.name} comes after normalize but works on grey levels; put it before")
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
# At test time the whole picture must reach the model, so that predictions can be brought back to its original size.
TestTransformConfig = Annotated[
    ResizeFit | ResizeToMultiple | ResizeShortest | Normalize, Field(discriminator="name"), BeforeValidator(expand_word)
]
TrainTransforms = Annotated[tuple[TransformConfig, ...], AfterValidator(_check_normalized_once)]
TestTransforms = Annotated[tuple[TestTransformConfig, ...], AfterValidator(_check_normalized_once)]


def applied(transforms: tuple[Transform, ...], sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample after all transforms, in order."""
    for transform in transforms:
        sample = transform.apply(sample, rng)
    return sample
