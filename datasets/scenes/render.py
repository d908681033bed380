"""The renderer: one pass of rays through a scene gives colours, labels, instances and metric depth.

Each pixel has four rays (`camera.SAMPLES`). The ray through its centre gives label and depth; the mean of all four is
the colour. So labels are exact, and edges in the image are antialiased.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.scenes.camera import Camera
from datasets.scenes.primitives import Array, Primitive, Vector, dot

SLIVER = 5e-4  # objects that cover less than this share of the image cannot be recognised; they lose their label


@dataclass(frozen=True)
class Light:
    """A point light. strength, ambient: factors on the surface colour, of direct and of ambient light."""

    position: Array
    strength: float = 0.8
    ambient: float = 0.35
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """Everything that is rendered. crowds: the instances that are groups, not single objects."""

    primitives: Sequence[Primitive]
    camera: Camera
    light: Light
    crowds: frozenset[int] = frozenset()
    kind: str = "room"


@dataclass(frozen=True)
class Rendering:
    """One image and its ground truth, all [H, W].

    rgb: [H, W, 3] uint8. label: uint8, 1..K, 0 where there is no class. instance: uint16, number of the object, 0 for
    stuff and void. depth: metres along the optical axis, 0 where there is no surface. facing: cosine of the angle
    between ray and surface normal, 1 where the camera looks at a surface head-on. gloss: how shiny the surface is, in
    0..1. focal: focal length in pixels.
    """

    rgb: NDArray[np.uint8]
    label: NDArray[np.uint8]
    instance: NDArray[np.uint16]
    depth: Array
    facing: Array
    gloss: Array
    focal: float


@dataclass(frozen=True)
class Surfaces:
    """The surface points that the rays hit, [N]. rays: index of each hit's ray, in flattened rays. Vectors: x, y, z."""

    rays: NDArray[np.intp]
    points: Vector
    normals: Vector
    facing: Array
    albedo: Array  # [3, N]
    gloss: Array
    glow: Array


def render(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Rendering:
    """Render at size (H, W). rng: for blur and noise of the sensor only."""
    rays = scene.camera.rays(size)
    depth, index = trace(scene.primitives, scene.camera, rays)
    surfaces = find_surfaces(scene, rays, depth, index)
    image = np.zeros((3, depth.size), np.float32)
    image[:, surfaces.rays] = shade(scene, surfaces)
    facing, gloss = np.ones(depth.size, np.float32), np.zeros(depth.size, np.float32)
    facing[surfaces.rays], gloss[surfaces.rays] = surfaces.facing, surfaces.gloss

    # A ray that hits nothing has index -1, which selects the additional last entry: no label, no instance.
    label = np.array([p.label for p in scene.primitives] + [0], dtype=np.uint8)[index[0]]
    instance = np.array([p.instance for p in scene.primitives] + [0], dtype=np.uint16)[index[0]]
    _drop_slivers(label, instance)
    return Rendering(
        rgb=_develop(image.reshape(3, *depth.shape).mean(axis=1), rng),
        label=label,
        instance=instance,
        depth=np.where(np.isfinite(depth[0]), depth[0], 0.0),
        facing=facing.reshape(depth.shape)[0],
        gloss=gloss.reshape(depth.shape)[0],
        focal=scene.camera.focal(size[1]),
    )


def trace(primitives: Sequence[Primitive], camera: Camera, rays: Vector) -> tuple[Array, NDArray[np.int32]]:
    """First hits of rays [S, H, W]: depth along the optical axis (inf: none) and index of the primitive (-1: none)."""
    shape = rays[0].shape
    depth, index = np.full(shape, np.inf, np.float32), np.full(shape, -1, dtype=np.int32)
    windows = camera.windows(np.stack([primitive.corners for primitive in primitives]), (shape[1], shape[2]))
    for number, (primitive, (top, bottom, left, right)) in enumerate(zip(primitives, windows, strict=True)):
        if top == bottom or left == right:
            continue
        part = (slice(None), slice(top, bottom), slice(left, right))
        t = primitive.intersect(camera.position, [ray[part] for ray in rays])
        nearer = t < depth[part]
        np.copyto(depth[part], t, where=nearer)
        np.copyto(index[part], number, where=nearer)
    return depth, index


def find_surfaces(scene: Scene, rays: Vector, depth: Array, index: NDArray[np.int32]) -> Surfaces:
    """Points, normals and materials of the surfaces that the rays hit."""
    hits = np.flatnonzero(index.ravel() >= 0)
    t = depth.ravel()[hits]
    directions = [ray.ravel()[hits] for ray in rays]
    points = [start + t * ray for start, ray in zip(scene.camera.position.tolist(), directions, strict=True)]
    normals, albedo = np.empty((3, hits.size), np.float32), np.empty((3, hits.size), np.float32)
    gloss, glow = np.empty(hits.size, np.float32), np.empty(hits.size, np.float32)
    for number, where in _groups(index.ravel()[hits]):
        primitive = scene.primitives[number]
        local = primitive.unit_point([point[where] for point in points])
        normals[:, where] = primitive.normal(local)
        albedo[:, where] = primitive.material.albedo(*surface_coordinates(primitive, local))
        gloss[where], glow[where] = primitive.material.gloss, primitive.material.glow
    cosine = dot(list(normals), directions) / np.sqrt(dot(directions, directions))
    towards_camera = list(normals * -np.sign(cosine))  # the room and open lamp shades are also seen from inside
    return Surfaces(hits, points, towards_camera, np.abs(cosine), albedo, gloss, glow)


def surface_coordinates(primitive: Primitive, local: Vector) -> tuple[Array, Array]:
    """Coordinates (across, up) in metres for the material's pattern, from points in coordinates of the unit shape."""
    half = primitive.half.tolist()
    x, y, z = (part * size for part, size in zip(local, half, strict=True))
    if primitive.shape != "box":
        return np.arctan2(local[1], local[0]) * half[0], z
    face = np.argmax(np.abs(local), axis=0)
    return np.where(face == 0, y, x), np.where(face == 2, y, z)


def shade(scene: Scene, surfaces: Surfaces) -> Array:
    """Colours [3, N], linear, about 0..1: ambient light, direct light with shadows, highlights."""
    light = scene.light
    to_light = [a - x for a, x in zip(light.position.tolist(), surfaces.points, strict=True)]
    distance = np.sqrt(dot(to_light, to_light))
    facing_light = dot(surfaces.normals, to_light) / distance
    lit = (facing_light > 0) & ~find_shadows(scene, surfaces.points, facing_light > 0)
    direct = light.strength * np.maximum(facing_light, 0) * lit / (0.7 + 0.06 * distance**2)
    ambient = light.ambient * (1 + 0.25 * surfaces.normals[2] + 0.15 * surfaces.normals[0])
    brightness = np.maximum(ambient + direct, surfaces.glow)
    highlight = surfaces.gloss * np.where(lit, np.maximum(facing_light, 0), 0) ** 24
    return surfaces.albedo * brightness * np.array(light.tint, np.float32)[:, None] + highlight


def find_shadows(scene: Scene, points: Vector, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a primitive hides each of the points [N] from the light; only tested where `candidates` is true."""
    dark = np.zeros(candidates.shape, dtype=bool)
    tested = np.flatnonzero(candidates)
    rays = [x[tested] - a for x, a in zip(points, scene.light.position.tolist(), strict=True)]
    length = np.sqrt(dot(rays, rays))
    for primitive in scene.primitives:
        if not primitive.casts_shadow:
            continue
        towards = primitive.centre - scene.light.position
        distance, radius = float(np.sqrt(towards @ towards)), float(np.sqrt(primitive.half @ primitive.half))
        if distance <= radius:
            continue
        # Hidden points are in the cone from the light around the bounding sphere, and beyond the sphere's near side.
        cosine = float(np.sqrt(1 - (radius / distance) ** 2)) - 1e-5
        near = (dot((towards / distance).tolist(), rays) > cosine * length) & (length > distance - radius)
        inside = np.flatnonzero(near)
        t = primitive.intersect(scene.light.position, [ray[inside] for ray in rays])
        dark[tested[inside[t < 1 - 2e-3]]] = True
    return dark


def _groups(numbers: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Yield each value in `numbers` with the indices where it occurs."""
    order = np.argsort(numbers, kind="stable")
    values, starts = np.unique(numbers[order], return_index=True)
    for value, where in zip(values, np.split(order, starts[1:]), strict=True):
        yield int(value), where


def _drop_slivers(label: NDArray[np.uint8], instance: NDArray[np.uint16]) -> None:
    """Set label and instance of hardly visible objects to 0, in place."""
    counts = np.bincount(instance.ravel())
    tiny = counts < SLIVER * instance.size
    tiny[0] = False
    gone = tiny[instance]
    label[gone] = 0
    instance[gone] = 0


def _develop(image: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Convert linear colours [3, H, W] to an 8-bit image [H, W, 3] with the blur and noise of a small camera."""
    picture = np.ascontiguousarray(np.clip(image, 0, 1).transpose(1, 2, 0)) ** (1 / 1.3)
    blurred = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.3, 0.55))
    noisy = blurred + rng.normal(0, rng.uniform(0.008, 0.022), picture.shape)
    return (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)
