"""The objects of a room, each made of primitives around its own origin on the floor: x to the right, z up, in metres.

Legs, posts, stems and slats are a few centimetres thick: one to three pixels in an image that is 160 pixels wide.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from datasets.scenes.materials import Material, hsv, random_color, random_material
from datasets.scenes.primitives import Array, Primitive, axes_along, box, ellipsoid, frustum, rod

Parts = list[Primitive]
Rng = np.random.Generator

SURFACES = ("plain", "plain", "planks", "stripes", "mottle", "checker")


def place(parts: Parts, position: Array, yaw: float, label: int = 0, instance: int = 0) -> Parts:
    """The parts in the world: rotated by yaw about z, moved to `position` [3], with label and instance."""
    turn = np.array([[np.cos(yaw), np.sin(yaw), 0.0], [-np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    return [
        replace(p, centre=position + p.centre @ turn, axes=p.axes @ turn, label=label, instance=instance) for p in parts
    ]


def table(rng: Rng) -> Parts:
    """A round or rectangular top on four thin legs, with a frame below the top."""
    top, leg = random_material(rng, SURFACES), random_material(rng, ["plain"])
    height, thick = rng.uniform(0.5, 0.78), rng.uniform(0.03, 0.06)
    width, depth = rng.uniform(0.8, 1.3), rng.uniform(0.6, 0.85)
    spread = rng.uniform(0.0, 0.08)
    parts = [box((0, 0, height), (width, depth, thick), top)]
    if rng.uniform() < 0.35:
        depth = width = rng.uniform(0.8, 1.1)
        parts = [frustum((0, 0, height - thick / 2), (0, 0, height + thick / 2), (width / 2, width / 2), top)]
        width = depth = width * 0.72
    x, y, radius = width / 2 - 0.06, depth / 2 - 0.06, rng.uniform(0.016, 0.028)
    for side in (-1, 1):
        for end in (-1, 1):
            foot = (side * (x + spread), end * (y + spread), 0)
            parts.append(rod(foot, (side * x, end * y, height), radius, leg))
        parts.append(box((0, side * y, height - 0.06), (2 * x, 0.025, 0.06), leg))
    return parts


def chair(rng: Rng) -> Parts:
    """A seat on four thin legs, with a back of slats or spindles."""
    seat, frame = random_material(rng, SURFACES), random_material(rng, ["plain"])
    height, half, radius = rng.uniform(0.4, 0.5), rng.uniform(0.2, 0.24), rng.uniform(0.013, 0.02)
    top, lean = height + rng.uniform(0.4, 0.6), rng.uniform(0.0, 0.14)
    parts = [box((0, 0, height), (2 * half + 0.03, 2 * half + 0.03, rng.uniform(0.03, 0.07)), seat)]
    for side in (-1, 1):
        parts.append(rod((side * half, -half, 0), (side * half, -half, height), radius, frame))
        parts.append(rod((side * half, half, 0), (side * half, half, height), radius, frame))
        parts.append(rod((side * half, half, height), (side * half, half + lean, top), radius, frame))
    for number in range(bars := int(rng.integers(3, 6))):
        share = (number + 1) / bars
        level, back = height + share * (top - height), half + share * lean
        if number + 1 == bars or bars == 3:
            parts.append(rod((-half, back, level), (half, back, level), 1.3 * radius, frame))
        else:
            x = half * (2 * share - 1)
            parts.append(rod((x, half, height), (x, half + lean, top), 0.8 * radius, frame))
    return parts


def cabinet(rng: Rng) -> Parts:
    """A closed body with knobs, or an open shelf with boards."""
    body = random_material(rng, SURFACES, (0.08, 0.2))
    width, depth, height = rng.uniform(0.5, 1.0), rng.uniform(0.32, 0.5), rng.uniform(0.55, 1.7)
    front, rows = -depth / 2, int(rng.integers(2, 5))
    metal = Material(random_color(rng), gloss=0.6)
    parts: Parts = []
    if rng.uniform() < 0.55:
        parts.append(box((0, 0, height / 2), (width, depth, height), body))
        gap = Material((body.color[0] * 0.35, body.color[1] * 0.35, body.color[2] * 0.35))
        for row in range(rows):
            parts.append(box((0, front, row * height / rows), (width - 0.04, 0.01, 0.025), gap))
            for x in (-0.12, 0.12):
                parts.append(ellipsoid((x * width, front - 0.02, (row + 0.5) * height / rows), (0.025,) * 3, metal))
        return parts
    parts.append(box((0, depth / 2 - 0.01, height / 2), (width, 0.02, height), body))
    for side in (-1, 1):
        parts.append(box((side * width / 2, 0, height / 2), (0.03, depth, height), body))
    for row in range(rows + 1):
        parts.append(box((0, 0, 0.02 + row * (height - 0.03) / rows), (width, depth, 0.03), body))
    return parts


def ball(rng: Rng) -> Parts:
    """A ball in two colours."""
    radius = rng.uniform(0.11, 0.26)
    material = random_material(rng, ["stripes", "checker", "dots", "plain"], (0.06, 0.14), gloss=0.3)
    return [ellipsoid((0, 0, radius), (radius,) * 3, material, axes_along(rng.normal(size=3)))]


def lamp(rng: Rng) -> Parts:
    """A floor lamp: foot, thin pole, glowing shade."""
    height, radius = rng.uniform(1.2, 1.65), rng.uniform(0.13, 0.2)
    metal = random_material(rng, ["plain"], gloss=0.4)
    foot = frustum((0, 0, 0), (0, 0, 0.03), (0.15, 0.13), metal)
    pole = rod((0, 0, 0.02), (0, 0, height), rng.uniform(0.012, 0.018), metal)
    return [foot, pole, _shade(rng, height, radius)]


def pendant(rng: Rng, ceiling: float) -> Parts:
    """A lamp that hangs from the ceiling on a thin cord."""
    height = ceiling - rng.uniform(0.45, 0.9)
    cord = rod((0, 0, height), (0, 0, ceiling), 0.01, Material(random_color(rng, 0.05, 0.5)))
    return [cord, _shade(rng, height, rng.uniform(0.12, 0.22))]


def plant(rng: Rng) -> Parts:
    """A pot with thin stems and narrow leaves, on the floor."""
    width, height = rng.uniform(0.11, 0.17), rng.uniform(0.16, 0.3)
    pot = random_material(rng, SURFACES, (0.05, 0.1))
    parts = [frustum((0, 0, 0), (0, 0, height), (0.75 * width, width), pot)]
    hue = rng.uniform(0.2, 0.42) if rng.uniform() < 0.7 else rng.uniform()
    reach, long = rng.uniform(0.25, 0.45), rng.uniform(0.13, 0.2)
    for number in range(int(rng.integers(11, 18))):
        angle = 2.4 * number + rng.uniform(-0.3, 0.3)
        out = np.array([np.cos(angle), np.sin(angle), 0.0]) * rng.uniform(0.25, 1.0) * reach
        tip = np.array([0, 0, height + rng.uniform(0.3, 1.0) * 2 * reach]) + out
        leaf = Material(hsv(hue, rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.8)))
        parts.append(rod((0, 0, height), tip, 0.007, leaf))
        direction = 1.3 * out + (0, 0, rng.uniform(-0.2, 0.3))
        parts.append(ellipsoid(tip, (0.008, 0.26 * long, long), leaf, axes_along(direction, rng.uniform(0, 3))))
    return parts


def railing(rng: Rng) -> Parts:
    """A handrail, horizontal or sloping like that of a stair, above thin vertical or horizontal bars."""
    metal = random_material(rng, ["plain"], gloss=0.2)
    half, thin = rng.uniform(0.5, 0.9), rng.uniform(0.011, 0.016)
    low, rise = rng.uniform(0.65, 0.95), rng.choice([0.0, 0.0, 0.35, -0.35])
    parts = [rod((-half, 0, low - rise), (half, 0, low + rise), 0.025, metal)]
    if rise == 0 and rng.uniform() < 0.4:
        parts += [rod((-half, 0, z), (half, 0, z), thin, metal) for z in np.arange(0.12, low - 0.05, 0.14)]
        return parts + [rod((x, 0, 0), (x, 0, low), 0.02, metal) for x in (-half, 0, half)]
    parts.append(rod((-half, 0, 0.08), (half, 0, 0.08), thin, metal))
    spacing = rng.uniform(0.1, 0.15)
    for number in range(count := int(2 * half / spacing) + 1):
        x = -half + 2 * half * number / (count - 1)
        end = number in (0, count - 1)
        parts.append(rod((x, 0, 0 if end else 0.08), (x, 0, low + rise * x / half), 0.02 if end else thin, metal))
    return parts


def clutter(rng: Rng) -> Parts:
    """A small object without a class: a carton, a cone, a bowl or an egg."""
    size = rng.uniform(0.06, 0.13)
    material = random_material(rng, SURFACES, (0.03, 0.06))
    kind = rng.integers(4)
    if kind == 0:
        return [box((0, 0, size), (2 * size, 1.5 * size, 2 * size), material)]
    if kind == 1:
        return [frustum((0, 0, 0), (0, 0, 2.5 * size), (size, 0.1 * size), material)]
    if kind == 2:
        return [frustum((0, 0, 0), (0, 0, size), (0.6 * size, 1.2 * size), material, capped=False)]
    return [ellipsoid((0, 0, 0.7 * size), (1.3 * size, size, 0.7 * size), material)]


def pile_of_balls(rng: Rng) -> Parts:
    """A heap of many small balls: a crowd, in which single balls are not separate objects."""
    parts: Parts = []
    for number in range(int(rng.integers(9, 17))):
        radius, angle = rng.uniform(0.06, 0.1), 2.4 * number
        out = 0.085 * np.sqrt(number)
        level = radius + max(0.0, 0.22 - 0.8 * out)
        material = random_material(rng, ["plain", "stripes"], (0.04, 0.06), gloss=0.3)
        parts.append(ellipsoid((out * np.cos(angle), out * np.sin(angle), level), (radius,) * 3, material))
    return parts


def _shade(rng: Rng, height: float, radius: float) -> Primitive:
    """An open lamp shade whose lower rim is at `height`."""
    color = hsv(rng.uniform(), rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0))
    cloth = Material(color, random_color(rng), str(rng.choice(["plain", "stripes"])), 0.06, glow=rng.uniform(0.6, 1.1))
    upper = radius * rng.uniform(0.35, 0.9)
    return frustum((0, 0, height - 0.1), (0, 0, height + 0.2), (radius, upper), cloth, capped=False)


FURNITURE: dict[str, Callable[[Rng], Parts]] = {
    "table": table,
    "chair": chair,
    "cabinet": cabinet,
    "ball": ball,
    "lamp": lamp,
    "plant": plant,
    "railing": railing,
}
