"""Categories of panoptic data, things and stuff; the official ones."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeInt

from config import Schema
from datasets.coco.dataset import CLASSES


class Category(Schema):
    """One class. isthing: whether it is a thing, with separate objects; otherwise it is stuff."""

    name: Annotated[str, Field(min_length=1)]
    isthing: bool

    def __str__(self) -> str:
        return f"{self.name} ({'a thing' if self.isthing else 'stuff'})"


STUFF = {
    int(number): name
    for number, name in (
        entry.split(" ", 1)
        for entry in """92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain, 112 door-stuff,
    118 floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house, 130 light, 133 mirror-stuff, 138 net, 141 pillow,
    144 platform, 145 playingfield, 147 railroad, 148 river, 149 road, 151 roof, 154 sand, 155 sea, 156 shelf, 159 snow,
    161 stairs, 166 tent, 168 towel, 171 wall-brick, 175 wall-stone, 176 wall-tile, 177 wall-wood, 178 water-other,
    180 window-blind, 181 window-other, 184 tree-merged, 185 fence-merged, 186 ceiling-merged, 187 sky-other-merged,
    188 cabinet-merged, 189 table-merged, 190 floor-other-merged, 191 pavement-merged, 192 mountain-merged,
    193 grass-merged, 194 dirt-merged, 195 paper-merged, 196 food-other-merged, 197 building-other-merged,
    198 rock-merged, 199 wall-other-merged, 200 rug-merged""".replace("\n    ", " ").split(", ")
    )
}
CATEGORIES = {
    **{category_id: Category(name=name, isthing=True) for category_id, name in CLASSES.items()},
    **{category_id: Category(name=name, isthing=False) for category_id, name in STUFF.items()},
}


def _check_mapping(value: Any) -> Any:
    """Raise ValueError unless `value` is None or a mapping whose values look like categories."""
    categories = value.values() if isinstance(value, dict) else [value]
    if value is None or all(
        isinstance(item, Category) or (isinstance(item, dict) and item.keys() == {"name", "isthing"})
        for item in categories
    ):
        return value
    example = "{1: {name: person, isthing: true}, 92: {name: banner, isthing: false}}"
    raise ValueError(f"is not a mapping of category ids to name and isthing; write for example {example}")


Classes = Annotated[dict[NonNegativeInt, Category] | None, BeforeValidator(_check_mapping)]
