"""Drawing functions that all kinds of pictures share: colours, overlays, titled panels, legends. All RGB, uint8."""

import colorsys
from functools import cache

import cv2
import numpy as np

Colour = tuple[int, int, int]

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)
RED, ORANGE = (230, 30, 30), (255, 165, 0)
GOLDEN_RATIO = 0.618034
SMALLEST_SIDE = 240  # pixels; much smaller images are enlarged, so that titles and thin structures stay legible
WRITING_SIDE = 480  # the same for panels with labels in them
LONGEST_SIDE = 4096  # no picture is enlarged beyond this
# Share of white (above 0) or black (below 0) in the colour of each further object of a class, to tell neighbours apart.
SHADES = (0.0, 0.45, -0.4, 0.25, -0.2, 0.65, -0.55)


@cache
def palette(num_classes: int) -> np.ndarray:
    """A colour for each class, [K, 3] uint8; classes with consecutive numbers have very different hues."""
    hues = (0.58 + np.arange(num_classes) * GOLDEN_RATIO) % 1
    saturations, values = (0.85, 0.6, 0.75), (0.95, 0.75, 1.0)
    colours = [
        colorsys.hsv_to_rgb(hue, saturations[index % 3], values[index // 3 % 3]) for index, hue in enumerate(hues)
    ]
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def shade(colour: np.ndarray, number: int) -> np.ndarray:
    """The colour [3] float of a class's object `number`, a shade of the class colour [3]."""
    share = SHADES[number % len(SHADES)]
    return colour * (1 - abs(share)) + (255 * share if share > 0 else 0)


def as_tuple(colour: np.ndarray) -> Colour:
    """A colour [3] as a tuple of ints, as OpenCV needs it."""
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """A mask of diagonal hatching, [H, W] bool."""
    period = max(4, min(shape[:2]) // 40)
    rows, columns = np.indices(shape[:2], sparse=True)
    return (rows + columns) % period < period / 2


def blend(image: np.ndarray, colours: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """`image` blended with `colours`, both [H, W, 3]."""
    return (image * (1 - opacity) + colours * opacity).astype(np.uint8)


def enlarge(image: np.ndarray, smallest_side: int = SMALLEST_SIDE) -> np.ndarray:
    """The picture [H, W, 3] enlarged by an integer factor to a legible size; pixels stay sharp.

    The shorter side becomes at least 2/3 of `smallest_side`, unless the longer one would exceed LONGEST_SIDE.
    """
    short, long = sorted(image.shape[:2])
    factor = max(1, min(int(smallest_side / short + 0.5), LONGEST_SIDE // long))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def label_size(text: str, size: float) -> tuple[int, int]:
    """Width and height in pixels of a label drawn by `write_label`. size: OpenCV's font scale."""
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    return width + 4, height + baseline + 2


def write_label(picture: np.ndarray, text: str, place: tuple[int, int], colour: Colour, size: float) -> None:
    """Write `text` at `place` (left, top) of `picture`, in black or white, on a background of `colour`."""
    left, top = place
    width, height = label_size(text, size)
    baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[1]
    cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), colour, cv2.FILLED)
    ink = BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else WHITE
    origin = left + 2, top + height - baseline
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)


def tile(panels: dict[str, np.ndarray], legend: dict[str, Colour]) -> np.ndarray:
    """Panels of equal size side by side, with titles above and a legend of names and colours below."""
    columns = [np.vstack([_title(name, panel.shape[1]), panel]) for name, panel in panels.items()]
    gap = np.full((columns[0].shape[0], 4, 3), 255, np.uint8)
    row = np.hstack([part for column in columns for part in (column, gap)][:-1])
    return np.vstack([row, _legend(legend, row.shape[1])]) if legend else row


def _title(text: str, width: int) -> np.ndarray:
    bar = np.full((22, width, 3), 255, np.uint8)
    return cv2.putText(bar, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, BLACK, 1, cv2.LINE_AA)


def _legend(entries: dict[str, Colour], width: int) -> np.ndarray:
    step = 16 + max(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] for name in entries) + 16
    columns = max(1, width // step)
    strip = np.full((20 * -(-len(entries) // columns) + 4, width, 3), 255, np.uint8)
    for index, (name, colour) in enumerate(entries.items()):
        x, y = index % columns * step + 4, index // columns * 20 + 4
        cv2.rectangle(strip, (x, y), (x + 12, y + 12), colour, cv2.FILLED)
        cv2.putText(strip, name, (x + 16, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.45, BLACK, 1, cv2.LINE_AA)
    return strip
