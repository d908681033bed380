"""Draw what an upsampler does at one stage: its sampling points, its kernels, the feature map before and after.

Positions in a picture are (column, row) in pixels of that picture; the centre of its first pixel is at (1/2, 1/2).
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from pictures.canvas import BLACK, GREY, RED, WHITE, Colour, as_tuple, palette, tile
from structures import Size

PANEL = 360  # the longer side of a panel, in pixels
PANELS_IN_ROW = 4
SUBPIXELS = 4  # OpenCV draws to 1 / 2**SUBPIXELS of a pixel
LARGEST_DISC = 12.0  # pixels: the radius of a point of weight 1
SHORTEST_ARROW = 3.0  # pixels; shorter arrows are drawn without a head
HISTOGRAM_HEIGHT = 160
PERCENTILES = 1, 99  # of a component: the ends of its colour range, so that outliers do not stretch it


Panels = dict[str, np.ndarray]  # pictures by title
Region = tuple[int, int, int, int]  # left, top, width, height in pixels of the image


@dataclass(frozen=True)
class View:
    """A region of an image [H, W, 3], seen with the low-res map of a stage.

    stride: image pixels per low-res pixel, (column, row). Low-res means: before upsampling.
    """

    image: np.ndarray
    stride: np.ndarray
    region: Region

    @property
    def corners(self) -> np.ndarray:
        """The corners of the region, [[left, top], [right, bottom]] in image pixels."""
        left, top, width, height = self.region
        return np.array([[left, top], [left + width, top + height]], float)

    @property
    def panel(self) -> Size:
        """(height, width) of a panel of the region."""
        return _panel_size(self.region[3], self.region[2])

    def on_panel(self, points: np.ndarray) -> np.ndarray:
        """Low-res positions [..., 2] as positions in a panel of the region."""
        height, width = self.panel
        return (points * self.stride - self.corners[0]) * np.array([width, height]) / self.region[2:]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Whether low-res positions [..., 2] lie in the region."""
        places = points * self.stride
        return ((self.corners[0] <= places) & (places < self.corners[1])).all(-1)

    def crop(self) -> np.ndarray:
        """The region of the image as a panel."""
        left, top, width, height = self.region
        return _resize(self.image[top : top + height, left : left + width], self.panel)

    def crop_with_pixels(self) -> np.ndarray:
        """The same in paler colours, with the borders of the low-res pixels."""
        pale = (self.crop() * 0.6 + 255 * 0.4).astype(np.uint8)
        height, width = self.panel
        for axis, (low, high) in enumerate((self.corners / self.stride).T):
            edges = np.arange(np.ceil(low), np.floor(high) + 1)
            places = self.on_panel(np.stack([edges, edges], axis=-1))[:, axis]
            for place in np.rint(places).astype(int).tolist():
                end = (place, height) if axis == 0 else (width, place)
                cv2.line(pale, (place, 0) if axis == 0 else (0, place), end, GREY, 1)
        return pale

    def crop_of_map(self, colours: np.ndarray, scale: int) -> np.ndarray:
        """The region of a map [h, w, 3] with `scale` pixels per low-res one, as a panel."""
        (left, top), (right, bottom) = self.corners / self.stride * scale
        height, width = self.panel
        columns = np.floor(left + (np.arange(width) + 0.5) / width * (right - left)).astype(int)
        rows = np.floor(top + (np.arange(height) + 0.5) / height * (bottom - top)).astype(int)
        return colours[np.ix_(rows.clip(0, len(colours) - 1), columns.clip(0, colours.shape[1] - 1))]


class Kernel(NamedTuple):
    """The kernel [K, K] of one output pixel, (column, row). The output is `scale` times as large as the input."""

    column: int
    row: int
    scale: int
    weights: np.ndarray


class WeightedPoints(NamedTuple):
    """The points of one output pixel, (column, row), on the low-res map: [g, n, 2]; and their weights [g, n]."""

    column: int
    row: int
    scale: int
    positions: np.ndarray
    weights: np.ndarray


def draw_sheet(view: View, before: np.ndarray, after: np.ndarray, scale: int, rows: list[Panels]) -> np.ndarray:
    """Draw the whole picture: the image and the maps before and after, the same for the region, then rows of panels.

    before, after: maps [C, h, w] without padding.
    """
    colours = colour_features(before, after)
    size = _panel_size(*view.image.shape[:2])
    ratio = np.array(size[::-1]) / view.image.shape[1::-1]
    titles = [
        f"{name} {'x'.join(map(str, maps.shape[1:]))}"
        for name, maps in zip(("feature", "upsampled"), (before, after), strict=True)
    ]
    whole = [
        _draw_frame(_resize(view.image, size), view.corners * ratio),
        *(_resize(colour, size) for colour in colours),
    ]
    near = [view.crop(), view.crop_of_map(colours[0], 1), view.crop_of_map(colours[1], scale)]
    maps = [dict(zip(["image", *titles], whole, strict=True)), dict(zip(["region", *titles], near, strict=True))]
    lines = []
    for row in [*maps, *rows]:
        names = list(row)
        for first in range(0, len(names), PANELS_IN_ROW):
            lines.append(tile({name: row[name] for name in names[first : first + PANELS_IN_ROW]}, {}))
    return _stack(lines)


def output_centres(height: int, width: int, scale: int) -> np.ndarray:
    """The centres of the output pixels on the low-res map, [height, width, 2]."""
    columns, rows = ((np.arange(length) + 0.5) / scale for length in (width, height))
    return np.stack(np.meshgrid(columns, rows), axis=-1)


def draw_arrow_panels(
    view: View, starts: np.ndarray, ends: np.ndarray, beyond: np.ndarray, margin: float, scale: int
) -> Panels:
    """Draw a panel for each group: arrows from `starts` to `ends` [g, h, w, 2] for the output pixels in the region.

    starts, ends: initial and final sampling points. beyond: whether an offset exceeds the margin, [g, h, w].
    """
    shown = view.contains(output_centres(ends.shape[1], ends.shape[2], scale))
    panels = {}
    for group, colour in enumerate(palette(len(ends))):
        places = view.on_panel(starts[group][shown]), view.on_panel(ends[group][shown])
        title = f"group {group}: {beyond[group][shown].mean():.0%} here beyond {margin:.3g}"
        panels[title] = draw_arrows(view.crop_with_pixels(), *places, as_tuple(colour))
    return panels


def draw_point_panels(view: View, chosen: list[WeightedPoints]) -> Panels:
    """Draw a panel for each group: the points of the chosen output pixels, each pixel with a ring in its own colour."""
    panels = {}
    for group in range(len(chosen[0].weights)):
        drawn = view.crop_with_pixels()
        for pixel, colour in zip(chosen, palette(len(chosen)), strict=True):
            centre = view.on_panel((np.array([pixel.column, pixel.row]) + 0.5) / pixel.scale)
            drawn = draw_points(
                drawn, centre, view.on_panel(pixel.positions[group]), pixel.weights[group], as_tuple(colour)
            )
        largest = max(float(pixel.weights[group].max()) for pixel in chosen)
        panels[f"group {group}: weights up to {largest:.3f}"] = drawn
    return panels


def draw_points(
    picture: np.ndarray, centre: np.ndarray, points: np.ndarray, weights: np.ndarray, colour: Colour
) -> np.ndarray:
    """Draw a line from the centre to each point [n, 2], and there a disc whose area is as the point's weight."""
    drawn = picture.copy()
    for point in points:
        cv2.line(drawn, _to_fixed_point(centre), _to_fixed_point(point), colour, 1, cv2.LINE_AA, SUBPIXELS)
    for point, weight in zip(points, weights, strict=True):
        radius = round(LARGEST_DISC * float(weight) ** 0.5 * (1 << SUBPIXELS))
        cv2.circle(drawn, _to_fixed_point(point), radius, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXELS)
    return _draw_ring(drawn, centre)


def draw_kernel_panels(view: View, kernels: list[Kernel]) -> Panels:
    """Draw a panel for each kernel, all with the same colour range."""
    largest = max(float(kernel.weights.max()) for kernel in kernels)
    panels = {}
    for column, row, scale, weights in kernels:
        first = np.array([column // scale, row // scale]) - len(weights) // 2
        window = view.on_panel(np.stack([first, first + len(weights)]))
        point = view.on_panel((np.array([column, row]) + 0.5) / scale)
        title = f"({column}, {row}): up to {weights.max():.3f}, sum {weights.sum():.3f}"
        panels[title] = draw_kernel(view.crop_with_pixels(), weights, window, point, largest)
    return panels


def draw_arrows(picture: np.ndarray, starts: np.ndarray, ends: np.ndarray, colour: Colour) -> np.ndarray:
    """Draw an arrow from each start to its end, both [N, 2], and a dot at each end, on a copy of the picture."""
    drawn = picture.copy()
    for start, end in zip(starts, ends, strict=True):
        length = float(np.hypot(*(end - start)))
        head = min(0.5, 6 / length) if length >= SHORTEST_ARROW else 0
        cv2.arrowedLine(drawn, _to_fixed_point(start), _to_fixed_point(end), BLACK, 1, cv2.LINE_AA, SUBPIXELS, head)
    for end in ends:
        cv2.circle(drawn, _to_fixed_point(end), 2 << SUBPIXELS, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXELS)
    return drawn


def draw_kernel(
    picture: np.ndarray, kernel: np.ndarray, window: np.ndarray, point: np.ndarray, largest: float
) -> np.ndarray:
    """Draw a kernel [K, K] over the picture, and a ring at its output pixel, `point`.

    Weight 0 is dark, `largest` is bright. window: the corners of the kernel in the picture, [[left, top], [right,
    bottom]]; parts outside the picture are cut off.
    """
    height, width = picture.shape[:2]
    size = len(kernel)
    (left, top), (right, bottom) = window
    columns = np.floor((np.arange(width) + 0.5 - left) / (right - left) * size).astype(int)
    rows = np.floor((np.arange(height) + 0.5 - top) / (bottom - top) * size).astype(int)
    inside = np.ix_((rows >= 0) & (rows < size), (columns >= 0) & (columns < size))
    weights = kernel[np.ix_(rows.clip(0, size - 1), columns.clip(0, size - 1))]
    shares = np.rint(np.clip(weights / max(largest, 1e-12), 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(shares, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    drawn = picture.copy()
    drawn[inside] = (0.25 * picture[inside] + 0.75 * colours[inside]).astype(np.uint8)
    return _draw_ring(drawn, point)


def colour_features(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Show maps [C, h, w] before (low) and after (high) upsampling as RGB.

    The channels are the first three principal components of `low`. Equal colours mean equal features in both.
    """
    features = low.reshape(len(low), -1).astype(np.float64)
    mean = features.mean(1, keepdims=True)
    _, vectors = np.linalg.eigh((features - mean) @ (features - mean).T)
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)  # the sign of an eigenvector is arbitrary
    ends = np.percentile(axes.T @ (features - mean), PERCENTILES, axis=1)[..., None]

    def colour(maps: np.ndarray) -> np.ndarray:
        projected = axes.T @ (maps.reshape(len(maps), -1) - mean)
        shares = np.clip((projected - ends[0]) / np.maximum(ends[1] - ends[0], 1e-12), 0, 1)
        picture = np.zeros((3, shares.shape[1]))
        picture[: len(shares)] = shares  # with fewer than three channels the other colours are 0
        return np.rint(picture.T.reshape(*maps.shape[1:], 3) * 255).astype(np.uint8)

    return colour(low), colour(high)


def draw_histogram(counts: np.ndarray, edges: np.ndarray, margin: float) -> np.ndarray:
    """Draw a histogram with a labelled axis. counts, edges: of its bins. Bins beyond +-margin are red."""
    width = 3 * PANEL
    panel = np.full((HISTOGRAM_HEIGHT + 22, width, 3), 255, np.uint8)
    places = 20 + (edges - edges[0]) / (edges[-1] - edges[0]) * (width - 40)
    heights = counts / max(counts.max(), 1) * (HISTOGRAM_HEIGHT - 8)
    for left, right, height, low, high in zip(places[:-1], places[1:], heights, edges[:-1], edges[1:], strict=True):
        colour = RED if abs(low + high) / 2 > margin else GREY
        top = HISTOGRAM_HEIGHT - round(float(height))
        cv2.rectangle(panel, (round(left), top), (max(round(right) - 2, round(left)), HISTOGRAM_HEIGHT), colour, -1)
    cv2.line(panel, (20, HISTOGRAM_HEIGHT), (width - 20, HISTOGRAM_HEIGHT), BLACK, 1)
    for value in (edges[0], -margin, 0.0, margin, edges[-1]):
        x = round(float(np.interp(value, edges, places)))
        cv2.line(panel, (x, HISTOGRAM_HEIGHT), (x, HISTOGRAM_HEIGHT + 4), BLACK, 1)
        text = f"{value:.3g}"
        half = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] // 2
        place = min(max(x - half, 0), width - 2 * half), HISTOGRAM_HEIGHT + 18
        cv2.putText(panel, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, BLACK, 1, cv2.LINE_AA)
    return panel


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    """Stack rows of different widths, on white."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.vstack(padded)


def _draw_ring(picture: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Draw a ring into the picture."""
    cv2.circle(picture, _to_fixed_point(point), 6 << SUBPIXELS, BLACK, 3, cv2.LINE_AA, SUBPIXELS)
    return cv2.circle(picture, _to_fixed_point(point), 6 << SUBPIXELS, WHITE, 1, cv2.LINE_AA, SUBPIXELS)


def _to_fixed_point(point: np.ndarray) -> tuple[int, int]:
    """A point in OpenCV's fixed-point coordinates, in which pixel centres are whole pixels."""
    column, row = np.rint((point - 0.5) * (1 << SUBPIXELS)).astype(int).tolist()
    return column, row


def _panel_size(height: int, width: int) -> Size:
    factor = PANEL / max(height, width)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _resize(picture: np.ndarray, size: Size) -> np.ndarray:
    """Resize the picture [h, w, 3] to (height, width) by nearest neighbour."""
    return cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _draw_frame(picture: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Draw a rectangle with the corners [[left, top], [right, bottom]] into the picture."""
    (left, top), (right, bottom) = np.rint(corners).astype(int).tolist()
    return cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), RED, 2)
