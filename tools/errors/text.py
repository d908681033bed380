"""The findings for the terminal: a few lines that say where most is lost."""

from collections.abc import Iterator
from typing import Any

from tools.errors.tide import KINDS
from tools.pages.html import number


def describe(record: dict[str, Any]) -> str:
    """The findings as text."""
    return "\n".join([f"{record['checkpoint']}, step {record['step']}, {record['images']} images", *lines(record)])


def lines(record: dict[str, Any]) -> Iterator[str]:
    """The main facts, one a line."""
    errors = record["errors"]
    if record["task"] == "semantic":
        yield f"mIoU {number(errors['mIoU'])}, {number(errors['accuracy'])} % of the pixels are right"
        near, inside = errors["boundary"], errors["interior"]
        yield f"near boundaries {number(near['accuracy'])} %, in the interior {number(inside['accuracy'])} %"
        if errors["calibration"]["ece"] is not None:
            yield f"calibration error of the class probabilities (ECE): {number(errors['calibration']['ece'])} %"
        for item in errors["confusions"][:5]:
            share = number(item["share_of_errors"])
            yield f"{item['true']} taken for {item['predicted']}: {share} % of the wrong pixels"
    elif record["task"] == "panoptic":
        values = errors["metrics"]
        yield f"PQ {number(values['PQ'])}, SQ {number(values['SQ'])}, RQ {number(values['RQ'])}"
        yield f"segments: {errors['TP']} matched, {errors['FN']} not found, {errors['FP']} predicted that match none"
        yield f"IoU of the matched: {number(errors['IoU']['mean'])} on average"
    elif record["task"] == "depth":
        every = errors["all"]
        error, rms = (number(every[name], "{:.3f}") for name in ("abs_rel", "rms"))
        yield f"abs_rel {error}, rms {rms} m, bias {number(every['bias'], '{:+.3f}')} m"
        for name, by in (("nearest", errors["by_distance"]), ("flattest", errors["by_gradient"])):
            used = [item for item in by if item["pixels"]]
            if used:
                first, last = (number(item["abs_rel"], "{:.3f}") for item in (used[0], used[-1]))
                yield f"abs_rel from {first} where it is {name} to {last} at the other end"
    else:
        for kind, found in errors.items():
            yield f"{kind}: AP50 {number(found['AP50'])}; AP lost to"
            for name in sorted(KINDS, key=lambda name: -found["lost"][name]):
                yield f"  {name:<15}{number(found['lost'][name]):>6}  ({found['count'][name]:,} errors)"
            yield f"  calibration error of the scores (ECE): {number(found['calibration']['ece'])} %"
