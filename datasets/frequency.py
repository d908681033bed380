"""How often classes occur in training data, and repeat-factor sampling, which repeats images with rare classes."""

from typing import NamedTuple

import numpy as np

from structures import ClassFrequencies


class Occurrences(NamedTuple):
    """Which classes are in which images, in any order; a pair may have several entries.

    images: [M] int64, indices of images. labels: [M] int64. amounts: [M] int64, objects or pixels, above 0.
    """

    images: np.ndarray
    labels: np.ndarray
    amounts: np.ndarray


def class_frequencies(occurrences: Occurrences, num_classes: int) -> ClassFrequencies:
    """The shares of each class in all pixels, and in the pixels of the images that it occurs in; 0 if it never does."""
    images, labels, amounts = occurrences
    by_class = np.bincount(labels, amounts, num_classes)
    by_image = np.bincount(images, amounts)
    pairs = np.unique(np.stack([images, labels], axis=1), axis=0)
    around = np.bincount(pairs[:, 1], by_image[pairs[:, 0]], num_classes)
    of_all = by_class / max(by_class.sum(), 1)
    return ClassFrequencies(tuple(of_all.tolist()), tuple((by_class / np.maximum(around, 1)).tolist()))


def class_repeats(occurrences: Occurrences, num_classes: int, length: int, threshold: float) -> np.ndarray:
    """How often images with a class are to be seen in an epoch of `length` images: [K] float64, at least 1.

    max(1, sqrt(threshold / f)) for a class in a share f of the images; 1 if it is in none. Gupta et al., "LVIS", CVPR
    2019, appendix B.
    """
    pairs = np.unique(np.stack([occurrences.images, occurrences.labels], axis=1), axis=0)
    shares = np.bincount(pairs[:, 1], minlength=num_classes) / length
    return np.where(shares > 0, np.maximum(1, np.sqrt(threshold / np.maximum(shares, 1 / length))), 1.0)


def repeat_factors(occurrences: Occurrences, length: int, by_class: np.ndarray) -> np.ndarray:
    """How often each of `length` images is to be seen in an epoch: the largest factor of its classes, [length] float64.

    by_class: of `class_repeats`.
    """
    factors = np.ones(length)
    np.maximum.at(factors, occurrences.images, by_class[occurrences.labels])
    return factors


def draw(factors: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The images of one epoch in random order, and which copy each of them is: two [E] int64, E = ceil(sum(factors)).

    An image with factor r is in it floor(r) or ceil(r) times, r times on average, up to the rounding of E.
    """
    length = epoch_length(factors)
    shuffled = rng.permutation(len(factors))
    # Points at distance 1, with one random offset, on a line that is cut into pieces as long as the factors.
    ends = np.cumsum(factors[shuffled]) * (length / factors.sum())
    ends[-1] = length
    counts = np.diff(np.floor(ends + rng.random()).astype(np.int64), prepend=0)
    images = np.repeat(shuffled, counts)
    copies = np.arange(length) - np.repeat(np.cumsum(counts) - counts, counts)
    order = rng.permutation(length)
    return images[order], copies[order]


def epoch_length(factors: np.ndarray) -> int:
    """The number of samples in an epoch."""
    return int(np.ceil(factors.sum()))
