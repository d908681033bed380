"""A pinhole camera: rays through the samples of every pixel, and the projection of points into the image.

Camera axes are right, down, forward. Rays have a forward component of 1, so a ray's parameter is the depth along the
optical axis in metres. The centre of the pixel in row i and column j is at (j + 0.5, i + 0.5).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.scenes.primitives import Array, Vector, transform

# Offsets (right, down) of a pixel's samples from its centre: the centre itself, then a triangle around it.
SAMPLES = np.array([(0, 0), (-0.4, -0.1), (0.1, 0.4), (0.3, -0.3)])

CLOSE = 0.05  # metres; points nearer than this have no useful projection


@dataclass(frozen=True)
class Camera:
    """Position and orientation of the camera. axes: [3, 3], rows right, down, forward. fov: horizontal, in radians."""

    position: Array
    axes: Array
    fov: float

    def focal(self, width: int) -> float:
        """Focal length in pixels for an image of this width; pixels are square."""
        return width / 2 / float(np.tan(self.fov / 2))

    def rays(self, size: tuple[int, int]) -> Vector:
        """World directions x, y, z, each [S, H, W] float32: one ray per sample of every pixel.

        Single precision gives a tenth of a millimetre of depth, with half the memory traffic of double precision.
        """
        height, width = size
        rows, columns = np.arange(height) + 0.5 - height / 2, np.arange(width) + 0.5 - width / 2
        right = (columns[None, None, :] + SAMPLES[:, 0, None, None]) / self.focal(width)
        down = (rows[None, :, None] + SAMPLES[:, 1, None, None]) / self.focal(width)
        right, down, forward = np.broadcast_arrays(right, down, 1.0)
        return transform(self.axes.T, [part.astype(np.float32) for part in (right, down, forward)])

    def windows(self, hulls: Array, size: tuple[int, int]) -> NDArray[np.intp]:
        """The window of the image that contains each set of points [P, M, 3]; empty for points behind the camera.

        [P, 4]: first row, end row, first column, end column.
        """
        height, width = size
        right, down, forward = np.moveaxis((hulls - self.position) @ self.axes.T, -1, 0)
        depth = np.maximum(forward, CLOSE)
        columns = right / depth * self.focal(width) + width / 2
        rows = down / depth * self.focal(width) + height / 2
        # One more pixel on every side covers the samples away from the pixel's centre.
        edges = np.stack([rows.min(1) - 1, rows.max(1) + 2, columns.min(1) - 1, columns.max(1) + 2], axis=1)
        edges[forward.min(1) < CLOSE] = (0, height, 0, width)
        edges[forward.max(1) < CLOSE] = 0
        return np.clip(edges, 0, (height, height, width, width)).astype(np.intp)


def make_camera(position: Array, yaw: float, pitch: float, roll: float, fov: float) -> Camera:
    """A camera that looks along +y, then rotated left by yaw, up by pitch and clockwise by roll. Angles in radians."""
    forward = np.array([-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    level = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    below = np.cross(forward, level)
    right = level * np.cos(roll) + below * np.sin(roll)
    return Camera(np.asarray(position, dtype=np.float64), np.stack([right, np.cross(forward, right), forward]), fov)
