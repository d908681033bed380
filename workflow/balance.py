"""What `train.py --check` says about rare classes: the class weights of losses, and which images are repeated."""

from collections.abc import Sequence

from torch import Tensor, nn

from datasets.base import DenseDataset

SHOWN = 3  # classes with one value; of more, only the number
LISTED = 6  # classes that are repeated


def balance_lines(model: nn.Module, training_set: DenseDataset) -> list[str]:
    """A line for each loss with class weights, and one for repeat-factor sampling; none without either."""
    classes = training_set.info.classes
    lines = []
    for module in model.modules():
        weights = getattr(module, "class_weights", None)
        if isinstance(weights, Tensor):
            lines.append(f"{getattr(module, 'name', 'loss')}: class weights {_span(weights.tolist(), classes)}")
    by_class, factors = training_set.class_repeats(), training_set.repeat_factors()
    if by_class is None or factors is None:
        return lines
    pairs = zip(by_class.tolist(), classes, strict=True)
    rare = sorted(((factor, name) for factor, name in pairs if factor > 1), key=lambda pair: -pair[0])
    if not rare:
        least = f"{training_set.repeat_threshold:g}"
        return [*lines, f"repeats: none, since no class is in less than a share {least} of the images"]
    names = ", ".join(f"{name} {factor:.3g}" for factor, name in rare[:LISTED])
    more = f" and {len(rare) - LISTED} more" if len(rare) > LISTED else ""
    what = f"repeats: {(factors > 1).sum()} of {len(factors)} images, for {names}{more} times"
    return [*lines, f"{what}; an epoch has {factors.sum():.0f} images"]


def _span(values: Sequence[float], classes: Sequence[str]) -> str:
    """The least and the largest of the values, and which classes have it."""
    parts = []
    for value in sorted({min(values), max(values)}):
        names = [name for other, name in zip(values, classes, strict=True) if other == value]
        parts.append(f"{value:.3g} ({', '.join(names) if len(names) <= SHOWN else f'{len(names)} classes'})")
    return " to ".join(parts)
