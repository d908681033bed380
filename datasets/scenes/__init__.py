"""The embedded scenes: rendered rooms with exact labels, written in the official ADE20K, COCO and NYU layouts.

`classes` lists the classes; `furniture` and `fixtures` build objects from `primitives` with `materials`; `layout` fills
random rooms; `camera` and `render` make images and ground truth; `labels`, `formats` and `write` store them.
"""

from datasets.scenes.classes import SCENE_CLASSES, THING_CLASSES
from datasets.scenes.write import write_scenes

__all__ = ["SCENE_CLASSES", "THING_CLASSES", "write_scenes"]
