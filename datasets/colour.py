"""Transforms that change the colours of the image alone: photometric augmentations and normalisation."""

from dataclasses import replace
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from pydantic import Field, PositiveFloat

from config import Fraction
from datasets.base import Ascending, FactorRange, Sample, Transform
from structures import Normalization, Size

HueRange = Annotated[tuple[int, int], Ascending]


class PhotometricDistortion(Transform):
    """Random brightness, contrast, saturation and hue (Liu et al., SSD, ECCV 2016); the image is uint8 after each step.

    brightness: largest shift in grey levels. contrast, saturation: ranges of factors. hue: smallest and largest shift,
    in OpenCV's 180 steps around the circle (mmsegmentation: -18, 17; detectron2's SSD augmentation: -18, 18).
    Contrast changes either before saturation and hue or after them.
    Draws: first, whether contrast changes early; then for each of brightness, contrast, saturation and hue, in this
    order, whether it changes and, if so, by how much.
    """

    needs_uint8 = True
    name: Literal["photometric_distortion"] = "photometric_distortion"
    brightness: Annotated[float, Field(ge=0)] = 32
    contrast: FactorRange = (0.5, 1.5)
    saturation: FactorRange = (0.5, 1.5)
    hue: HueRange = (-18, 17)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        contrast_first = rng.random() < 0.5
        image = sample.image
        if rng.random() < 0.5:
            image = _scale_and_shift(image, shift=rng.uniform(-self.brightness, self.brightness))
        contrast = rng.uniform(*self.contrast) if rng.random() < 0.5 else 1.0
        if contrast_first:
            image = _scale_and_shift(image, factor=contrast)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            saturation = _scale_and_shift(cv2.extractChannel(hsv, 1), factor=rng.uniform(*self.saturation))
            cv2.insertChannel(saturation, hsv, 1)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if rng.random() < 0.5:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            shift = rng.integers(self.hue[0], self.hue[1], endpoint=True)
            hues = (np.arange(256) + shift) % 180
            cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), hues.astype(np.uint8)), hsv, 0)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not contrast_first:
            image = _scale_and_shift(image, factor=contrast)
        return replace(sample, image=image)


def _scale_and_shift(image: np.ndarray, factor: float = 1, shift: float = 0) -> np.ndarray:
    """`image` * factor + shift, clipped to 0..255 and truncated (not rounded) to uint8, as in mmsegmentation."""
    if factor == 1 and shift == 0:
        return image
    table = np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


class GammaJitter(Transform):
    """Grey levels to a random power, times a random brightness and a random factor per channel (DepthFormer, on NYU).

    The power is taken of values in 0..255, so it changes the brightness a lot: 100 becomes 158 with gamma 1.1, and 63
    with 0.9. (BTS, where this comes from, uses values in 0..1.) The result is clipped and, unlike in the original,
    rounded to grey levels.
    Draws: whether to change the image; if so gamma, brightness, factors of red, green, blue, each uniform in its range.
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
    """(image - mean) / std per channel, as float32; mean and std are RGB, on 0..255. Defaults: ImageNet's."""

    needs_uint8 = True
    name: Literal["normalize"] = "normalize"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See the class."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        table = (np.arange(256, dtype=np.float32)[:, None] - mean) / std  # one row per grey level
        image = cv2.LUT(sample.image, table[None])
        return replace(sample, image=image)

    def left_to_device(self, sizes: list[Size]) -> Normalization:
        """The same for images of these sizes that are padded with 0 afterwards, to be done on their device."""
        return Normalization(torch.tensor(self.mean), torch.tensor(self.std), sizes)
