"""Random rooms: which objects are in them and where, and the position of the camera."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from datasets.scenes.camera import Camera, make_camera
from datasets.scenes.classes import label_of
from datasets.scenes.fixtures import FIXTURES, rug, shell
from datasets.scenes.furniture import FURNITURE, Parts, Rng, clutter, pendant, pile_of_balls, place
from datasets.scenes.materials import mix
from datasets.scenes.primitives import Array, Primitive
from datasets.scenes.render import Light, Scene

# The least and the largest number of each thing in each kind of room. Large things are placed first: they need space.
THINGS = ("table", "cabinet", "railing", "chair", "lamp", "plant", "ball")
Rooms = dict[str, tuple[tuple[int, int], ...]]
ROOMS: Rooms = {
    "dining_room": ((1, 2), (0, 2), (0, 1), (2, 4), (0, 1), (1, 2), (0, 1)),
    "living_room": ((1, 1), (1, 2), (0, 1), (0, 2), (1, 2), (1, 3), (0, 2)),
    "playroom": ((0, 1), (0, 1), (1, 2), (1, 2), (0, 1), (0, 1), (2, 5)),
    "study": ((1, 1), (1, 3), (0, 1), (1, 3), (1, 2), (0, 2), (0, 2)),
}
SPARSE_ROOMS: Rooms = {
    "dining_room": ((1, 1), (0, 1), (0, 0), (1, 2), (0, 0), (0, 1), (0, 0)),
    "living_room": ((0, 1), (0, 1), (0, 1), (0, 0), (1, 1), (1, 1), (0, 1)),
    "playroom": ((0, 0), (0, 1), (1, 1), (0, 1), (0, 0), (0, 1), (1, 2)),
    "study": ((0, 1), (1, 1), (0, 0), (1, 1), (0, 1), (0, 1), (0, 0)),
}


class Difficulty(NamedTuple):
    """How hard scenes are to segment.

    rooms: the numbers of things. nearest, farthest: metres from the camera to things. contrast: of the patterns on
    surfaces, 0..1; 0 is plain. saturation: factor on that of walls, floor and ceiling, 0..1. clutter: whether there are
    objects without a class, and crowds.
    """

    rooms: Rooms
    nearest: float
    farthest: float
    contrast: float
    saturation: float
    clutter: bool


DIFFICULTIES = {
    "easy": Difficulty(SPARSE_ROOMS, 1.6, 3.2, 0.25, 0.4, clutter=False),
    "hard": Difficulty(ROOMS, 1.5, 4.6, 1.0, 1.0, clutter=True),
}
SLOT = 1.5  # metres of wall that a window with curtains, or a door, takes
BOUNDS = tuple(label_of(name) for name in ("wall", "floor", "ceiling"))
WALL_GAP = 0.28  # metres from a wall to the centre of a cabinet


@dataclass
class Room:
    """A room while it is being filled: x in -width/2..width/2, y in 0..depth, z in 0..height, metres."""

    rng: Rng
    difficulty: Difficulty
    width: float
    depth: float
    height: float
    camera: Camera
    yaw: float
    parts: Parts = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)  # circles x, y, radius on the floor
    tops: list[Array] = field(default_factory=list)  # free table tops
    instances: int = 0
    crowds: frozenset[int] = frozenset()

    def add_object(self, name: str, parts: Parts, position: Array, yaw: float) -> None:
        """Place a new object of a thing class."""
        self.instances += 1
        self.parts += place(parts, position, yaw, label_of(name), self.instances)

    def free_spot(self, radius: float) -> Array | None:
        """A free place on the floor in the camera's view, [3]; None if 20 random places are not free."""
        for _ in range(20):
            angle = self.yaw + self.rng.uniform(-0.45, 0.45) * self.camera.fov
            distance = self.rng.uniform(self.difficulty.nearest, self.difficulty.farthest)
            x = self.camera.position[0] - distance * np.sin(angle)
            y = self.camera.position[1] + distance * np.cos(angle)
            inside = abs(x) < self.width / 2 - radius and radius < y < self.depth - radius
            if inside and self.claim(x, y, radius):
                return np.array([x, y, 0.0])
        return None

    def claim(self, x: float, y: float, radius: float) -> bool:
        """Reserve a circle on the floor if it is free. Circles may overlap a little; most objects do not fill them."""
        free = all(np.hypot(x - a, y - b) > 0.85 * (radius + r) for a, b, r in self.taken)
        if free:
            self.taken.append((x, y, radius))
        return free


def make_scene(rng: Rng, empty: bool = False, difficulty: str = "hard") -> Scene:
    """A random room. An empty room has no things, only surfaces and clutter. difficulty: one of DIFFICULTIES."""
    room = _bare_room(rng, DIFFICULTIES[difficulty])
    rooms = room.difficulty.rooms
    _hang_fixtures(room)
    kind = str(rng.choice(list(rooms)))
    if rng.uniform() < 0.75 or empty:
        _lay_rug(room)
    if not empty:
        for name, (low, high) in zip(THINGS, rooms[kind], strict=True):
            for _ in range(int(rng.integers(low, high + 1))):
                _add_thing(room, name)
        _add_extras(room)
    if room.difficulty.clutter:
        _scatter_clutter(room)
    lamp_position = (rng.uniform(-0.4, 0.4) * room.width, rng.uniform(0.2, 0.8) * room.depth, room.height - 0.15)
    tint = (rng.uniform(0.9, 1.08), rng.uniform(0.95, 1.02), rng.uniform(0.85, 1.1))
    light = Light(np.array(lamp_position), rng.uniform(0.6, 1.1), rng.uniform(0.32, 0.5), tint)
    parts = [_soften(part, room.difficulty) for part in room.parts] if difficulty != "hard" else room.parts
    return Scene(parts, room.camera, light, room.crowds, kind)


def _soften(part: Primitive, difficulty: Difficulty) -> Primitive:
    """The part with less contrast in its pattern and, if it bounds the room, paler colours."""
    color, other = part.material.color, mix(part.material.color, part.material.other, difficulty.contrast)
    if part.label in BOUNDS:
        color, other = (mix((sum(each) / 3,) * 3, each, difficulty.saturation) for each in (color, other))
    return replace(part, material=replace(part.material, color=color, other=other))


def _bare_room(rng: Rng, difficulty: Difficulty) -> Room:
    width, depth, height = rng.uniform(3.6, 5.5), rng.uniform(4.2, 6.2), rng.uniform(2.3, 2.9)
    position = np.array([rng.uniform(-0.3, 0.3) * width, rng.uniform(0.25, 0.7), rng.uniform(1.1, 1.75)])
    # The camera turns towards the centre of the room, and more so the farther it is from the middle line.
    yaw = 0.15 * position[0] + rng.normal(0, 0.22)
    camera = make_camera(position, yaw, rng.uniform(-0.33, 0.03), rng.normal(0, 0.04), rng.uniform(1.0, 1.25))
    return Room(rng, difficulty, width, depth, height, camera, yaw, shell(rng, width, depth, height))


def _hang_fixtures(room: Room) -> None:
    """Put windows, doors and paintings on the wall ahead and the two side walls."""
    walls = (
        (room.width, (0.0, room.depth), 0.0),
        (room.depth, (-room.width / 2, room.depth / 2), np.pi / 2),
        (room.depth, (room.width / 2, room.depth / 2), -np.pi / 2),
    )
    for length, (x, y), yaw in walls:
        slots = int(length / SLOT)
        for slot in range(slots):
            name = str(room.rng.choice([*FIXTURES, "none"], p=[0.36, 0.24, 0.3, 0.1]))
            if name == "none":
                continue
            along = (slot + 0.5 - slots / 2) * length / slots + room.rng.uniform(-0.1, 0.1)
            position = np.array([x + along * np.cos(yaw), y + along * np.sin(yaw), 0.0])
            for part in FIXTURES[name](room.rng):
                room.parts += place([part], position, yaw, part.label)


def _lay_rug(room: Room) -> None:
    distance, angle = room.rng.uniform(1.9, 3.0), room.yaw + room.rng.uniform(-0.25, 0.25)
    x = room.camera.position[0] - distance * np.sin(angle)
    y = room.camera.position[1] + distance * np.cos(angle)
    room.parts += place(rug(room.rng), np.array([x, y, 0.0]), room.rng.uniform(-0.6, 0.6), label_of("rug"))


def _add_thing(room: Room, name: str) -> None:
    parts = FURNITURE[name](room.rng)
    radius = 0.8 * max(float(np.hypot(*part.corners[:, :2].T).max()) for part in parts)
    spot = room.free_spot(radius)
    if spot is None:
        return
    yaw = room.rng.uniform(-np.pi, np.pi)
    if name == "cabinet":
        spot, yaw = _against_wall(room, spot)
        room.taken.pop()
        if not room.claim(spot[0], spot[1], radius):
            return
    elif name == "railing":
        yaw = room.rng.uniform(-0.9, 0.9)
    elif name == "table":
        yaw = room.rng.uniform(-0.5, 0.5)
        room.tops.append(spot + np.array([0.0, 0.0, parts[0].centre[2] + parts[0].half[2]]))
    room.add_object(name, parts, spot, yaw)


def _against_wall(room: Room, spot: Array) -> tuple[Array, float]:
    """Move a place to the nearest of the wall ahead and the side walls. Return it and the yaw that faces the room."""
    gaps = {0.0: room.depth - spot[1], np.pi / 2: spot[0] + room.width / 2, -np.pi / 2: room.width / 2 - spot[0]}
    yaw = min(gaps, key=lambda side: gaps[side])
    if yaw == 0:
        return np.array([spot[0], room.depth - WALL_GAP, 0.0]), yaw
    return np.array([-np.sign(yaw) * (room.width / 2 - WALL_GAP), spot[1], 0.0]), yaw


def _add_extras(room: Room) -> None:
    """Sometimes put an object on a table, hang a lamp from the ceiling, and add a crowd of balls."""
    for top in room.tops:
        name = str(room.rng.choice(["plant", "ball", "none"], p=[0.3, 0.15, 0.55]))
        if name != "none":
            spot = top + np.array([0.15, 0.0, 0.0])
            room.add_object(name, FURNITURE[name](room.rng), spot, room.rng.uniform(-3, 3))
    if room.rng.uniform() < 0.35 and (below := room.free_spot(0.1)) is not None:
        room.add_object("lamp", pendant(room.rng, room.height), below, 0.0)
    if room.difficulty.clutter and room.rng.uniform() < 0.3 and (heap := room.free_spot(0.4)) is not None:
        room.add_object("ball", pile_of_balls(room.rng), heap, 0.0)
        room.crowds = room.crowds | {room.instances}


def _scatter_clutter(room: Room) -> None:
    """Put small objects without a class on the floor and on tables."""
    for _ in range(int(room.rng.integers(2, 5))):
        spot = room.free_spot(0.12)
        if spot is not None:
            room.parts += place(clutter(room.rng), spot, room.rng.uniform(-3, 3))
    for top in room.tops:
        spot = top + np.array([-0.2, room.rng.uniform(-0.1, 0.1), 0.0])
        room.parts += place(clutter(room.rng), spot, room.rng.uniform(-3, 3))
