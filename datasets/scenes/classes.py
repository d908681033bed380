"""The class list of the embedded scenes: names in the order of semantic labels, and their category ids in COCO files.

Classes that COCO has keep their official id; the others take one from the gaps of the official list. So, as in the
official files, ids have gaps, are above 91 for stuff, and have another order than the semantic labels.
"""

from typing import NamedTuple


class SceneClass(NamedTuple):
    """One class: its name, COCO category id and supercategory."""

    name: str
    category_id: int
    supercategory: str

    @property
    def is_thing(self) -> bool:
        """Whether it is a thing: COCO's ids of things are at most 91."""
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
    """The label of a class in a rendering, 1..K; 0 means no class."""
    return SCENE_CLASSES.index(name) + 1
