"""Materials: two colours, and a pattern in metres that mixes them over the surface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks. Colours are RGB in 0..1. period: the size of the pattern in metres."""

    color: Color
    other: Color = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    period: float = 0.2
    gloss: float = 0.0  # strength of the highlight; shiny surfaces also lose depth measurements
    glow: float = 0.0  # lower bound of the brightness, for lamps and the sky in windows

    def albedo(self, u: Array, v: Array) -> Array:
        """Colours [3, N] at surface coordinates u, v [N] in metres."""
        share = PATTERNS[self.pattern](u / self.period, v / self.period)
        return np.stack([a + (b - a) * share for a, b in zip(self.color, self.other, strict=True)])


def mix(color: Color, other: Color, share: float) -> Color:
    """The colour between two: `color` at share 0, `other` at 1."""
    red, green, blue = (a + (b - a) * share for a, b in zip(color, other, strict=True))
    return red, green, blue


def _plain(u: Array, v: Array) -> Array:
    return np.zeros_like(u)


def _checker(u: Array, v: Array) -> Array:
    return (np.floor(u) + np.floor(v)) % 2


def _stripes(u: Array, v: Array) -> Array:
    return np.floor(u) % 2


def _folds(u: Array, v: Array) -> Array:
    """Hanging cloth: soft stripes that shift sideways on the way down."""
    return 0.5 + 0.5 * np.sin(2 * np.pi * (u + 0.1 * np.sin(v)))


def _brick(u: Array, v: Array) -> Array:
    row = np.floor(v)
    across = (u / 2 + row / 2) % 1
    return np.where((across < 0.06) | (v - row < 0.12), 1.0, 0.25 * _hash(row, np.floor(u / 2 + row / 2)))


def _planks(u: Array, v: Array) -> Array:
    row = np.floor(v)
    along = u / 7 + _hash(row, row)
    gap = (v - row < 0.07) | (along % 1 < 0.015)
    return np.where(gap, 1.0, 0.45 * _hash(row, np.floor(along)))


def _dots(u: Array, v: Array) -> Array:
    return ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09).astype(np.float64)


def _grid(u: Array, v: Array) -> Array:
    return ((u % 1 < 0.12) | (v % 1 < 0.12)).astype(np.float64)


def _mottle(u: Array, v: Array) -> Array:
    waves = np.sin(3.1 * u + 1.7 * np.sin(2.3 * v)) + np.sin(4.7 * v + 2.1 * np.sin(1.9 * u)) + np.sin(7.3 * (u - v))
    return 0.5 + waves / 6


def _gradient(u: Array, v: Array) -> Array:
    return np.clip(0.5 + v / 2, 0, 1)


def _hash(row: Array, column: Array) -> Array:
    """A pseudo-random number in 0..1 for each cell, always the same."""
    return np.sin(row * 12.9898 + column * 78.233) * 43758.5453 % 1


PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "plain": _plain,
    "checker": _checker,
    "stripes": _stripes,
    "folds": _folds,
    "brick": _brick,
    "planks": _planks,
    "dots": _dots,
    "grid": _grid,
    "mottle": _mottle,
    "gradient": _gradient,
}


def random_color(rng: np.random.Generator, low: float = 0.15, high: float = 0.95) -> Color:
    """A colour of any hue, with saturation and brightness that keep shading visible."""
    return hsv(rng.uniform(), rng.uniform(0.05, 0.75), rng.uniform(low, high))


def hsv(hue: float, saturation: float, value: float) -> Color:
    """RGB in 0..1 from hue (in turns), saturation and brightness (0..1)."""
    red, green, blue = (
        value * (1 - saturation * min(1.0, max(0.0, 2 - abs((hue * 6 + shift) % 6 - 3)))) for shift in (0.0, 4.0, 2.0)
    )
    return red, green, blue


def random_material(
    rng: np.random.Generator, patterns: Sequence[str], period: tuple[float, float] = (0.05, 0.2), gloss: float = 0.0
) -> Material:
    """A material of two related or unrelated colours with one of the patterns."""
    color, other = random_color(rng), random_color(rng)
    if rng.uniform() < 0.5:
        shade = rng.uniform(0.4, 0.75)
        other = (color[0] * shade, color[1] * shade, color[2] * shade)
    return Material(color, other, str(rng.choice(list(patterns))), rng.uniform(*period), gloss)
