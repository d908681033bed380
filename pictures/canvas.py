"""Drawing that all kinds of pictures share: colours, overlays, titled panels, legends. Pictures are RGB uint8."""

import colorsys
from functools import cache

import cv2
import numpy as np

Colour = tuple[int, int, int]

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)
RED, ORANGE = (230, 30, 30), (255, 165, 0)
GOLDEN_RATIO = 0.618034
SMALLEST_SIDE = 240  # much smaller images are enlarged, so that titles and thin structures stay legible
WRITING_SIDE = 480  # the same for panels in which words are written
LONGEST_SIDE = 4096  # no strip is enlarged beyond
# How far each further object of a class is mixed with white (above 0) or black, so that neighbours can be told apart.
SHADES = (0.0, 0.45, -0.4, 0.25, -0.2, 0.65, -0.55)


@cache
def palette(num_classes: int) -> np.ndarray:
    """A colour for each class, [K, 3] uint8; neighbours in number are far apart in hue."""
    hues = (0.58 + np.arange(num_classes) * GOLDEN_RATIO) % 1
    saturations, values = (0.85, 0.6, 0.75), (0.95, 0.75, 1.0)
    colours = [
        colorsys.hsv_to_rgb(hue, saturations[index % 3], values[index // 3 % 3]) for index, hue in enumerate(hues)
    ]
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def shade(colour: np.ndarray, number: int) -> np.ndarray:
    """The colour [3] of a class for its object of that number, float."""
    share = SHADES[number % len(SHADES)]
    return colour * (1 - abs(share)) + (255 * share if share > 0 else 0)


def as_tuple(colour: np.ndarray) -> Colour:
    """A colour [3] as OpenCV takes it."""
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """[H, W] bool: a diagonal hatching."""
    period = max(4, min(shape[:2]) // 40)
    rows, columns = np.indices(shape[:2], sparse=True)
    return (rows + columns) % period < period / 2


def blend(image: np.ndarray, colours: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """`colours` laid over `image`, both [H, W, 3]."""
    return (image * (1 - opacity) + colours * opacity).astype(np.uint8)


def enlarge(image: np.ndarray, smallest_side: int = SMALLEST_SIDE) -> np.ndarray:
    """The picture [H, W, 3] repeated a whole number of times to about a legible size; pixels stay sharp.

    The shorter side becomes 2/3 of `smallest_side` or more, but the longer one at most LONGEST_SIDE by it.
    """
    short, long = sorted(image.shape[:2])
    factor = max(1, min(int(smallest_side / short + 0.5), LONGEST_SIDE // long))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def label_size(text: str, size: float) -> tuple[int, int]:
    """Width and height in pixels of a label that `write_label` makes."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    return width + 4, height + below + 2


def write_label(picture: np.ndarray, text: str, place: tuple[int, int], colour: Colour, size: float) -> None:
    """Write into `picture` at `place` (left, top), on a ground of `colour`, in black or white as that needs."""
    left, top = place
    width, height = label_size(text, size)
    below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[1]
    cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), colour, cv2.FILLED)
    ink = BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else WHITE
    cv2.putText(picture, text, (left + 2, top + height - below), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)


def tile(panels: dict[str, np.ndarray], legend: dict[str, Colour]) -> np.ndarray:
    """Panels of one size side by side under their titles, and below them a legend of names and colours."""
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
        cv2.rectangle(strip, (x, y), (x + 12, y + 12), tuple(int(value) for value in colour), cv2.FILLED)
        cv2.putText(strip, name, (x + 16, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.45, BLACK, 1, cv2.LINE_AA)
    return strip
