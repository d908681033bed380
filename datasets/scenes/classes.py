"""The class list of the embedded scenes: names in semantic order, and the category ids that they have in COCO files.

A class that COCO knows keeps its official id, a class that COCO lacks takes one from the gaps of the official list. So
ids have gaps, lie above 91 for stuff, and come in another order than the semantic labels, as in the official files.
"""

from typing import NamedTuple


class SceneClass(NamedTuple):
    """One class: its COCO category id, name, and supercategory."""

    name: str
    category_id: int
    supercategory: str

    @property
    def is_thing(self) -> bool:
        """COCO keeps ids up to 91 for countable things."""
        return self.category_id <= 91


CLASSES = (
    SceneClass("wall", 199, "structure"),
    SceneClass("floor", 190, "structure"),
    SceneClass("ceiling", 186, "structure"),
    SceneClass("window", 181, "opening"),
    SceneClass("door", 112, "opening"),
    SceneClass("painting", 94, "decoration"),
    SceneClass("curtain", 109, "decoration"),
    SceneClass("rug", 200, "decoration"),
    SceneClass("table", 67, "furniture"),
    SceneClass("chair", 62, "furniture"),
    SceneClass("cabinet", 45, "furniture"),
    SceneClass("ball", 37, "sports"),
    SceneClass("lamp", 26, "furniture"),
    SceneClass("plant", 64, "decoration"),
    SceneClass("railing", 12, "structure"),
)
SCENE_CLASSES: tuple[str, ...] = tuple(entry.name for entry in CLASSES)
THING_CLASSES: tuple[str, ...] = tuple(entry.name for entry in CLASSES if entry.is_thing)


def label_of(name: str) -> int:
    """The label of a class in a rendering, 1..K; 0 is kept for what has no class."""
    return SCENE_CLASSES.index(name) + 1
