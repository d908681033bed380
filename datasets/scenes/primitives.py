"""Analytic shapes: where a ray meets a box, an ellipsoid or a frustum.

Every primitive is a unit shape under an affine map, `unit = to_unit @ (world - centre)`. A ray keeps its parameter t
under an affine map, so intersections are computed for the unit shapes only: the cube [-1, 1]^3, the sphere of radius 1,
and the frustum around the z axis from z = -1 to 1. World units are metres, z points up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.scenes.materials import Material

Array = NDArray[np.floating]
Vector = Sequence[Array]  # x, y, z: three arrays of one shape

NEAR = 1e-6  # a hit closer than this is on the surface that the ray starts from
_SIGNS = np.array([(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


@dataclass(frozen=True)
class Primitive:
    """A solid in the world. axes: [3, 3], its local unit axes as rows. half: [3], its half extents in metres."""

    shape: Literal["box", "ellipsoid", "frustum"]
    centre: Array
    axes: Array
    half: Array
    material: Material
    taper: tuple[float, float] = (1.0, 1.0)  # frustum only: radius at the bottom and the top, as a fraction of `half`
    capped: bool = True  # frustum only: closed at both ends
    label: int = 0  # semantic label, 0: no class
    instance: int = 0  # number of the object in the scene, 0: none
    casts_shadow: bool = True

    @property
    def to_unit(self) -> Array:
        """The linear part [3, 3] of the map from the world to the unit shape."""
        return self.axes / self.half[:, None]

    @property
    def corners(self) -> Array:
        """Corners [8, 3] of the bounding box in the world."""
        return self.centre + (_SIGNS * self.half) @ self.axes

    def unit_point(self, points: Vector) -> Vector:
        """World points in the coordinates of the unit shape."""
        return transform(self.to_unit, [x - c for x, c in zip(points, self.centre.tolist(), strict=True)])

    def intersect(self, origin: Array, directions: Vector) -> Array:
        """Ray parameter of the first hit, in units of the direction's length; inf where the ray misses.

        origin: [3], for all rays. directions: x, y, z, three arrays of one shape.
        """
        start = (self.to_unit @ (origin - self.centre)).tolist()
        ray = transform(self.to_unit, directions)
        if self.shape == "box":
            return _hit_cube(start, ray)
        if self.shape == "ellipsoid":
            return _hit_sphere(start, ray)
        return _hit_frustum(start, ray, self.taper, self.capped)

    def normal(self, points: Vector) -> Vector:
        """Outward unit normals in world coordinates, at surface points given in coordinates of the unit shape."""
        if self.shape == "box":
            face = np.argmax(np.abs(points), axis=0)
            local = [np.where(face == i, np.sign(points[i]), 0.0) for i in range(3)]
        elif self.shape == "ellipsoid":
            local = list(points)
        else:
            bottom, top = self.taper
            slope = (top - bottom) / 2
            radius = (bottom + top) / 2 + slope * points[2]
            cap = (np.abs(points[2]) > 1 - 1e-5) & self.capped
            side = [points[0], points[1], -slope * radius]
            end = [np.zeros_like(radius), np.zeros_like(radius), np.sign(points[2])]
            local = [np.where(cap, a, b) for a, b in zip(end, side, strict=True)]
        world = transform(self.to_unit.T, local)
        length = np.sqrt(dot(world, world))
        return [part / length for part in world]


def transform(matrix: Array, vectors: Vector) -> Vector:
    """Matrix [3, 3] times vectors. Written out, because the result must not depend on how BLAS splits the work."""
    x, y, z = vectors
    return [a * x + b * y + c * z for a, b, c in matrix.tolist()]


def dot(a: Vector | Sequence[float], b: Vector) -> Array:
    """Dot products of vectors, element by element. `a` may be a single vector."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _hit_cube(start: list[float], ray: Vector) -> Array:
    enter, leave = np.full_like(ray[0], -np.inf), np.full_like(ray[0], np.inf)
    for o, d in zip(start, ray, strict=True):
        inverse = 1 / np.where(np.abs(d) < 1e-12, 1e-12, d)
        middle, reach = -o * inverse, np.abs(inverse)
        enter = np.maximum(enter, middle - reach)
        leave = np.minimum(leave, middle + reach)
    return np.where((enter <= leave) & (enter > NEAR), enter, np.inf)


def _hit_sphere(start: list[float], ray: Vector) -> Array:
    a, b, c = dot(ray, ray), dot(start, ray), sum(part**2 for part in start) - 1
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root >= 0) & (t > NEAR), t, np.inf)


def _hit_frustum(start: list[float], ray: Vector, taper: tuple[float, float], capped: bool) -> Array:
    bottom, top = taper
    slope = (top - bottom) / 2
    radius = (bottom + top) / 2 + slope * start[2]
    a = ray[0] ** 2 + ray[1] ** 2 - (slope * ray[2]) ** 2
    a = np.where(np.abs(a) < 1e-12, 1e-12, a)
    b = start[0] * ray[0] + start[1] * ray[1] - slope * radius * ray[2]
    square = b * b - a * (start[0] ** 2 + start[1] ** 2 - radius**2)
    root = np.sqrt(np.maximum(square, 0))
    first = np.full(a.shape, np.inf)
    for t in ((-b - root) / a, (-b + root) / a):
        on_side = (square >= 0) & (t > NEAR) & (np.abs(start[2] + t * ray[2]) <= 1)
        first = np.where(on_side & (t < first), t, first)
    if capped:
        along = np.where(np.abs(ray[2]) < 1e-12, 1e-12, ray[2])
        for end, size in ((-1.0, bottom), (1.0, top)):
            t = (end - start[2]) / along
            inside = (start[0] + t * ray[0]) ** 2 + (start[1] + t * ray[1]) ** 2 <= size**2
            first = np.where(inside & (t > NEAR) & (t < first), t, first)
    return first


def box(centre: ArrayLike, size: ArrayLike, material: Material, axes: Array | None = None) -> Primitive:
    """A box with side lengths `size` (x, y, z) around its centre."""
    return Primitive("box", _vector(centre), _frame(axes), _vector(size) / 2, material)


def ellipsoid(centre: ArrayLike, radii: ArrayLike, material: Material, axes: Array | None = None) -> Primitive:
    """An ellipsoid with these radii along its axes."""
    return Primitive("ellipsoid", _vector(centre), _frame(axes), _vector(radii), material)


def frustum(
    start: ArrayLike, end: ArrayLike, radii: tuple[float, float], material: Material, capped: bool = True
) -> Primitive:
    """A truncated cone from `start` to `end`, with the radii at these ends."""
    start, end = _vector(start), _vector(end)
    length, widest = float(np.sqrt(((end - start) ** 2).sum())), max(radii)
    half = _vector((widest, widest, length / 2))
    taper = (radii[0] / widest, radii[1] / widest)
    return Primitive("frustum", (start + end) / 2, axes_along(end - start), half, material, taper, capped)


def rod(start: ArrayLike, end: ArrayLike, radius: float, material: Material) -> Primitive:
    """A thin round bar between two points. Its ends are open, which is not visible at this thickness."""
    return frustum(start, end, (radius, radius), material, capped=False)


def axes_along(direction: ArrayLike, spin: float = 0.0) -> Array:
    """An orthonormal frame [3, 3] whose third row points along `direction`, turned about it by `spin` radians."""
    x, y, z = _vector(direction).tolist()
    length, flat = math.hypot(x, y, z), math.hypot(x, y)
    x, y, z = x / length, y / length, z / length
    # A horizontal vector perpendicular to the direction; for a vertical direction any horizontal vector is.
    side = (y * length / flat, -x * length / flat, 0.0) if flat > 0 else (1.0, 0.0, 0.0)
    other = (y * side[2] - z * side[1], z * side[0] - x * side[2], x * side[1] - y * side[0])
    cos, sin = math.cos(spin), math.sin(spin)
    first = [cos * a + sin * b for a, b in zip(side, other, strict=True)]
    second = [cos * b - sin * a for a, b in zip(side, other, strict=True)]
    return np.array([first, second, [x, y, z]])


def _vector(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def _frame(axes: Array | None) -> Array:
    return np.eye(3) if axes is None else axes
