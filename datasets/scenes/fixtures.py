"""The fixed parts of a room: floor, ceiling and walls, and the windows, doors, paintings and curtains on the walls.

The origin of a fixture is at the foot of its wall: x along the wall, z up, -y towards the room; in metres.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from datasets.scenes.classes import label_of
from datasets.scenes.furniture import Parts, Rng
from datasets.scenes.materials import Material, hsv, random_color, random_material
from datasets.scenes.primitives import Primitive, axes_along, box

THICK = 0.2  # thickness of walls, floor and ceiling


def shell(rng: Rng, width: float, depth: float, height: float) -> Parts:
    """Floor, ceiling and four walls around x in -width/2..width/2, y in 0..depth, z in 0..height."""
    pattern = str(rng.choice(["plain", "stripes", "brick", "grid", "mottle"]))
    paper = random_color(rng, 0.5, 0.95)
    shade = rng.uniform(0.65, 0.92)
    other = (paper[0] * shade, paper[1] * shade, paper[2] * shade)
    plaster = Material(paper, other, pattern, rng.uniform(0.1, 0.3))
    ground = random_material(rng, ["planks", "planks", "checker", "grid", "mottle"], (0.12, 0.4), rng.choice([0, 0.3]))
    above = random_material(rng, ["plain", "plain", "grid", "planks"], (0.3, 0.6))
    above = replace(above, color=hsv(rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.7, 1)))
    middle, outer = depth / 2, THICK / 2
    slabs = [
        ("floor", (0, middle, -outer), (width, depth, THICK), ground),
        ("ceiling", (0, middle, height + outer), (width, depth, THICK), above),
        ("wall", (-width / 2 - outer, middle, height / 2), (THICK, depth, height), plaster),
        ("wall", (width / 2 + outer, middle, height / 2), (THICK, depth, height), plaster),
        ("wall", (0, -outer, height / 2), (width + 1, THICK, height), plaster),
        ("wall", (0, depth + outer, height / 2), (width + 1, THICK, height), plaster),
    ]
    return [_flat(box(centre, size, material), name) for name, centre, size, material in slabs]


def window(rng: Rng) -> Parts:
    """A bright pane with frame and thin bars, usually with curtains at its sides."""
    width, height, low = rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.2), rng.uniform(0.75, 0.95)
    frame = Material(random_color(rng, 0.3, 1.0))
    sky = Material(
        hsv(rng.uniform(), 0.3, 0.8), hsv(0.58, 0.25, 1.0), "gradient", 0.7, gloss=1.0, glow=rng.uniform(0.7, 1)
    )
    middle = low + height / 2
    parts = [box((0, -0.005, middle), (width, 0.02, height), sky)]
    for x in np.linspace(-width / 2, width / 2, int(rng.integers(3, 5))):
        parts.append(box((x, -0.03, middle), (0.04, 0.04, height), frame))
    for z in np.linspace(low, low + height, int(rng.integers(2, 4))):
        parts.append(box((0, -0.03, z), (width, 0.04, 0.04), frame))
    parts = [_flat(part, "window") for part in parts]
    return parts + curtains(rng, width, low + height) if rng.uniform() < 0.7 else parts


def curtains(rng: Rng, width: float, top: float) -> Parts:
    """Two folded cloths on a rod, in front of the sides of a window."""
    cloth = random_material(rng, ["folds", "folds", "stripes"], (0.07, 0.14))
    wide, long = rng.uniform(0.26, 0.45), rng.uniform(1.1, top)
    upper = top + 0.1
    parts = [box((0, -0.1, upper), (width + 2 * wide, 0.03, 0.03), cloth)]
    for side in (-1, 1):
        x = side * (width / 2 + 0.15 * wide)
        parts.append(box((x, -0.1, upper - long / 2), (wide, 0.06, long), cloth))
    return [_flat(part, "curtain") for part in parts]


def door(rng: Rng) -> Parts:
    """A leaf with two panels, a frame and a knob."""
    wood = random_material(rng, ["plain", "plain", "planks", "stripes"], (0.1, 0.25))
    dark = Material((wood.color[0] * 0.7, wood.color[1] * 0.7, wood.color[2] * 0.7))
    trim = Material(random_color(rng, 0.4, 1.0))
    parts = [box((0, 0, 1.0), (0.9, 0.06, 2.0), wood), box((0, 0, 2.04), (1.06, 0.09, 0.08), trim)]
    parts += [box((side * 0.49, 0, 1.0), (0.08, 0.09, 2.0), trim) for side in (-1, 1)]
    parts += [box((0, -0.03, z), (0.55, 0.012, 0.7), dark) for z in (0.55, 1.45)]
    parts.append(
        box((rng.choice([-0.38, 0.38]), -0.05, 1.0), (0.05, 0.06, 0.05), Material((0.8, 0.75, 0.5), gloss=0.6))
    )
    return [_flat(part, "door") for part in parts]


def painting(rng: Rng) -> Parts:
    """A framed canvas, slightly tilted."""
    width, height, middle = rng.uniform(0.45, 1.1), rng.uniform(0.4, 0.85), rng.uniform(1.3, 1.7)
    canvas = random_material(rng, ["mottle", "dots", "checker", "stripes", "gradient"], (0.08, 0.3))
    frame = Material(random_color(rng, 0.1, 0.9))
    tilt = rng.normal(0, 0.06)
    axes = axes_along((np.sin(tilt), 0, np.cos(tilt)))[[1, 0, 2]] * np.array([[1.0], [-1.0], [1.0]])
    parts = [box((0, -0.01, middle), (width, 0.04, height), frame, axes)]
    parts.append(box((0, -0.03, middle), (width - 0.08, 0.02, height - 0.08), canvas, axes))
    return [_flat(part, "painting") for part in parts]


def rug(rng: Rng) -> Parts:
    """A flat cloth with a border; its origin is its centre, on the floor."""
    size = rng.uniform(1.1, 2.0), rng.uniform(0.9, 1.4)
    cloth = random_material(rng, ["stripes", "checker", "dots", "grid", "mottle"], (0.08, 0.25))
    border = Material(random_color(rng))
    parts = [box((0, 0, 0.005), (*size, 0.01), border)]
    parts.append(box((0, 0, 0.008), (size[0] - 0.14, size[1] - 0.14, 0.012), cloth))
    return [_flat(part, "rug") for part in parts]


def _flat(part: Primitive, name: str) -> Primitive:
    return replace(part, label=label_of(name), casts_shadow=False)


FIXTURES: dict[str, Callable[[Rng], Parts]] = {"window": window, "door": door, "painting": painting}
