"""The embedded scenes: rendered rooms with exact labels, written in the official ADE20K, COCO and NYU layouts.

`classes` names what there is; `furniture` and `fixtures` build it from `primitives` with `materials`; `layout` fills
random rooms; `camera` and `render` make pictures and ground truth; `labels`, `formats` and `write` bring them to disk.
"""

from datasets.scenes.classes import SCENE_CLASSES, THING_CLASSES
from datasets.scenes.write import write_scenes

__all__ = ["SCENE_CLASSES", "THING_CLASSES", "write_scenes"]
