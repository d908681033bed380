"""No error gives advice that is itself refused: each advice about settings is produced, followed, and produced no more.

The advice is collected from the source (`tests/advice.py`). A new one needs a row in `ROWS`, or a reason in `NOT_HERE`.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from errors import UserError
from experiment import load_experiment
from models.cost import shapes_only
from runtime.distributed import start_processes
from tests.advice import DOTTED, GAP, Advice, all_advice, is_key, settings_in
from tests.conftest import ROOT
from tests.test_repository import sources

ROOTS = {"seg": "ADEChallengeData2016", "det": "coco", "inst": "coco", "pan": "coco", "depth": "nyu"}


@dataclass(frozen=True)
class Row:
    """How to come by an advice, and how to follow it.

    do: the advice, gaps as `…`. task: of the demo. wrong: arguments that produce the error. follow: arguments that
    the advice asks for, put behind the wrong ones; None: what stands in the message after `set`. instead: whether they
    replace the wrong ones. `ROOT` in an argument is the folder of the task's data, `HERE` an empty one of the test.
    prepare: makes files in the test's folder.
    """

    do: str
    task: str
    wrong: list[str]
    follow: list[str] | None
    instead: bool = False
    prepare: Callable[[Path], object] = field(default=lambda _: None)


def start(task: str, arguments: list[str]) -> str | None:
    """Do what a run does before its first step, without training; the error, if there is one."""
    try:
        experiment = load_experiment(ROOT / f"configs/small/{task}.yaml", arguments)
        experiment.best_metric()
        with shapes_only():
            model = experiment.build_model(pretrained=False)
        experiment.optimizer.build(model, experiment.batch_size)
        start_processes(experiment.system.device)
        for split, transforms in (
            ("train", experiment.data.train_transforms),
            ("val", experiment.data.test_transforms),
        ):
            sample = experiment.data.build(split).load(0)
            for transform in transforms:
                sample = transform.apply(sample, np.random.default_rng(0))
    except UserError as error:
        return str(error)
    return None


def one_bad_object(folder: Path) -> None:
    box = {"image_id": 1, "category_id": 26, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, **box}, {"id": 2, **box, "image_id": 99}],
        "categories": [{"id": 12, "name": "railing"}, {"id": 26, "name": "lamp"}],
    }
    (folder / "some.json").write_text(json.dumps(content))


DEMO_CLASSES = {12: "railing", 26: "lamp", 37: "ball", 45: "cabinet", 62: "chair", 64: "plant", 67: "table"}


def one_object(category: int, name: str, others: dict[int, str] = DEMO_CLASSES) -> Callable[[Path], object]:
    """Writes a file with one object, of a category that is not among the others."""
    box = {"image_id": 1, "category_id": category, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, **box}],
        "categories": [{"id": number, "name": text} for number, text in {**others, category: name}.items()],
    }
    return lambda folder: (folder / "one.json").write_text(json.dumps(content))


def list_outside(folder: Path) -> None:
    (folder / "list.txt").write_text("../a.jpg ../a.png 518.0\n")


def list_of_missing(folder: Path) -> None:
    (folder / "list.txt").write_text("a.jpg a.png 518.0\n")


def pasted(error: str) -> list[str]:
    """The arguments at the end of an error that says to set them, as a shell reads them."""
    return shlex.split(re.split(r"(?:; |, or |, )set ", error)[-1])


CLASSES = "data.classes={12: railing, 26: lamp}"
NORMALIZE = "data.train_transforms=[normalize]"
TWO = ["data.classes=[a, b]"]
PROBE = "name: probe, backbone: {name: mit_b0, weights: null}, upsampler: dysample"
ROWS = [
    # of config
    Row("write for example model.upsampler=carafe", "seg", ["carafe"], ["model.upsampler=carafe"], instead=True),
    Row("write null for none", "seg", ["gradient_clip="], ["gradient_clip=null"], instead=True),
    Row("write one after the =", "seg", ["seed="], ["seed=1"], instead=True),
    Row("put text that has a # in quotes", "seg", ["data.classes=[a #1]"], ["data.classes=['a #1']"], instead=True),
    Row("put it in quotes, for example '…'", "seg", ["data.classes=[yes]"], ["data.classes=['yes']"], instead=True),
    Row("put it in quotes", "det", ["data.classes={no: a}"], ["data.classes={'1': a}"], instead=True),
    Row(
        "put it in quotes if it is a text: '…'",
        "seg",
        ["data.classes=[2024-11-23]"],
        ["data.classes=['2024-11-23']"],
        instead=True,
    ),
    Row(
        "write a plain one, or put text in quotes",
        "seg",
        ["data.classes=[001]"],
        ["data.classes=['001']"],
        instead=True,
    ),
    Row(
        "write a smaller number, or put text in quotes",
        "seg",
        [f"data.classes=[{'9' * 20}]"],
        [f"data.classes=['{'9' * 20}']"],
        instead=True,
    ),
    Row(
        "write the value out, or put text in quotes",
        "seg",
        ["data.classes=[*a]"],
        ["data.classes=['*a']"],
        instead=True,
    ),
    Row("leave it out, or put text in quotes", "seg", ["data.classes=[!a b]"], ["data.classes=['!a b']"], instead=True),
    Row(
        "correct the value, or put text in quotes",
        "seg",
        ["data.classes=[a: b, @c]"],
        ["data.classes=['a: b', '@c']"],
        instead=True,
    ),
    Row("write a list, for example [a, b]", "seg", ["data.classes=wall"], ["data.classes=[wall, b]"], instead=True),
    Row("write a mapping, {KEY: VALUE}", "seg", ["system=3"], ["system={workers: 1}"], instead=True),
    Row("give a number or a word", "seg", ["seed=true"], ["seed=1"], instead=True),
    # of experiment and runtime
    Row("use letters, digits and _ . + -, a letter or digit first", "seg", ["run_name=a b"], ["run_name=a_b"]),
    Row("remove one", "seg", ["metrics=[mean_iou, mean_iou]"], ["metrics=[mean_iou]"]),
    Row("choose a metric of its task", "seg", ["metrics=[coco_ap]"], ["metrics=[mean_iou]"]),
    Row("use …", "det", ["metrics=[{name: coco_ap, kinds: [segm]}]"], ["metrics=[{name: coco_ap, kinds: [bbox]}]"]),
    Row(
        "give one number for each class, or name the classes",
        "seg",
        ["model.losses=[{name: focal, class_weights: [1, 2]}]"],
        ["model.losses=[{name: focal, class_weights: {wall: 2}}]"],
    ),
    Row("list it once and give it a weight", "seg", ["model.losses=[dice, dice]"], ["model.losses=[dice]"]),
    Row(
        "remove model.calibration",
        "seg",
        [f"model={{{PROBE}, calibration: {{scale: 2}}}}"],
        [f"model={{{PROBE}}}"],
        instead=True,
    ),
    Row("remove model.losses", "depth", [f"model={{{PROBE}, losses: [dice]}}"], [f"model={{{PROBE}}}"], instead=True),
    Row(
        "set data.masks=true, or metrics.coco_ap.boundary=false",
        "det",
        ["metrics=[{name: coco_ap, boundary: true}]"],
        ["metrics.coco_ap.boundary=false"],
    ),
    Row("use auto or cpu", "seg", ["system.device=cuda"], ["system.device=auto"]),
    Row("raise data.max_depth too", "depth", ["metrics=[{name: depth_errors, max_depth: 50}]"], ["data.max_depth=50"]),
    Row("lower it", "depth", ["metrics=[{name: depth_errors, min_depth: 20}]"], ["metrics.depth_errors.min_depth=0.1"]),
    Row(
        "change the upsampler or remove one_step",
        "seg",
        ["model.one_step=true", "model.upsampler=carafe"],
        ["model.one_step=null"],
    ),
    Row("set data.masks=true, or use faster_rcnn", "inst", ["data.masks=false"], ["data.masks=true"]),
    Row("set data.masks=false, or use mask_rcnn", "det", ["data.masks=true"], ["data.masks=false"]),
    # of datasets
    Row("give every class its own name", "seg", ["data.classes=[a, a]"], ["data.classes=[a, b]"]),
    Row(
        "classes take the values … to …, ignore others",
        "seg",
        ["data.ignore_labels=[3]"],
        ["data.ignore_labels=[0]"],
    ),
    Row(
        "classes take the values in label_values, ignore others",
        "seg",
        [*TWO, "data.label_values={1: a, 2: b}", "data.ignore_labels=[1]"],
        ["data.ignore_labels=[0]"],
    ),
    Row("add one, or remove the class", "seg", [*TWO, "data.label_values={1: a}"], ["data.label_values={2: b}"]),
    Row(
        "add it there, or correct it",
        "seg",
        [*TWO, "data.label_values={1: a, 2: b, 3: c}"],
        ["data.classes=[a, b, c]"],
    ),
    Row(
        "store labels as PNG, which keeps them exactly",
        "seg",
        ["data.label_suffix=_l.jpg"],
        ["data.label_suffix=_l.png"],
    ),
    Row("set …", "seg", ["data.classes=[a]"], None),
    Row("PNGs hold 16 bits", "seg", ["data.ignore_labels=[70000]"], ["data.ignore_labels=[65535]"]),
    Row("set …", "seg", ["data.root=ROOT/.."], None),
    Row("set data.kb_crop=false, or take the original images", "depth", ["data.kb_crop=true"], None),
    Row(
        "correct data.root, or fetch … with python -m tools.… --root …",
        "seg",
        ["data.root=/proc/nowhere"],
        ["data.root=ROOT"],
    ),
    Row(
        "run make scenes, which is python -m tools.make_scenes --root …, or correct data.root",
        "seg",
        ["data.root=HERE/scenes/ADEChallengeData2016"],
        ["data.root=ROOT"],
    ),
    Row(
        "check data.root, or set … to the folder's path below it",
        "seg",
        ["data.val_images=no"],
        ["data.val_images=images/validation"],
    ),
    Row(
        "correct the file, or data.classes, data.first_label, data.ignore_labels, or name the class of each value in "
        "data.label_values (here are …)",
        "seg",
        ["data.classes=[a, b]"],
        ["data.ignore_labels=[0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]"],
    ),
    Row(
        "set it to null",
        "det",
        ["data.train_transforms=[{name: random_crop, size: [40, 40], max_class_share: 0.7}, normalize]"],
        ["data.train_transforms.random_crop.max_class_share=null"],
    ),
    Row(
        "take it out of data.train_transforms, or set it for your images",
        "seg",
        ["data.train_transforms=[{name: crop_window, top: 40, left: 0, size: [40, 40]}, normalize]"],
        ["data.train_transforms.0.top=0"],
    ),
    Row(
        "use it for data without boxes only: take it out of data.train_transforms",
        "det",
        ["data.train_transforms=[{name: random_rotate, degrees: 5, probability: 1}, normalize]"],
        [NORMALIZE],
    ),
    Row("list it exactly once", "seg", ["data.train_transforms=[]"], [NORMALIZE]),
    Row(
        "check data.root, or set data.… to the …'s path below it",
        "det",
        ["data.val_images=no"],
        ["data.val_images=val2017"],
    ),
    Row(
        "correct the file, or leave out what is unusable with data.on_error=skip",
        "det",
        ["data.train_annotations=HERE/some.json", CLASSES],
        ["data.on_error=skip"],
        prepare=one_bad_object,
    ),
    Row(
        "name another file, or take the categories of data.train_annotations with data.classes=null",
        "det",
        ["data.train_annotations=HERE/one.json"],
        ["data.classes=null"],
        prepare=one_object(99, "extra", {}),
    ),
    Row("name another file, or set …", "det", ["data.classes=null", "data.classes={500: zebra}"], None),
    Row(
        "give both splits the same ids and names; to score this file alone, set …",
        "det",
        ["data.val_annotations=HERE/one.json"],
        None,
        prepare=one_object(99, "extra", {}),
    ),
    Row(
        "give it one id everywhere, or another name in the file",
        "det",
        ["data.train_annotations=HERE/one.json"],
        ["data.train_annotations=annotations/instances_train2017.json"],
        prepare=one_object(77, "lamp"),
    ),
    Row(
        "list these in data.classes, or name other annotations",
        "det",
        ["data.train_annotations=HERE/one.json"],
        ["data.classes={99: extra}"],
        prepare=one_object(99, "extra"),
    ),
    Row("lower data.min_side, for example data.min_side=…", "det", ["data.min_side=4000"], ["data.min_side=1"]),
    Row("lower data.min_side, for example data.min_side=…", "pan", ["data.min_side=4000"], ["data.min_side=1"]),
    Row(
        "list data.classes, or name annotations with categories",
        "det",
        ["data.classes=null", "data.classes={}"],
        [CLASSES],
    ),
    Row(
        "correct data.train_annotations (or data.root), or list data.classes",
        "det",
        ["data.classes=null", "data.train_annotations=no.json"],
        ["data.train_annotations=annotations/instances_train2017.json"],
    ),
    Row(
        "name a file with these things and images as data.train_instances, or set data.things_from=panoptic",
        "pan",
        ["data.things_from=instances", "data.on_error=skip", "data.train_instances=annotations/instances_val2017.json"],
        ["data.things_from=panoptic"],
    ),
    Row("set …", "depth", ["data.root=ROOT/.."], None),
    Row(
        "correct … or data.root",
        "depth",
        ["data.train_images=no", "data.train_depths=no"],
        ["data.train_images=study_0001a", "data.train_depths=study_0001a"],
    ),
    Row("name both folders of the split, or a …_list", "depth", ["data.val_images=a"], ["data.val_depths=a"]),
    Row(
        "name both folders of the split, or a …_list",
        "depth",
        ["data.val_images=a"],
        ["data.val_images=null", "data.val_list=nyu_test.txt"],
    ),
    Row(
        "set one of them to null",
        "depth",
        ["data.train_list=a", "data.train_images=a", "data.train_depths=a"],
        ["data.train_list=null"],
    ),
    Row("change one", "depth", ["data.min_depth=20"], ["data.min_depth=0.1"]),
    Row(
        "write paths of files below it",
        "depth",
        ["data.train_list=HERE/list.txt"],
        ["data.train_list=nyu_train.txt"],
        prepare=list_outside,
    ),
    Row(
        "add the file, or correct the list or data.root, or leave such lines out with data.on_error=skip",
        "depth",
        ["data.train_list=HERE/list.txt"],
        ["data.train_list=nyu_train.txt"],
        prepare=list_of_missing,
    ),
    # of inference
    Row("set evaluation.inference=null", "pan", ["evaluation.inference.flip=true"], None),
]

DONE = {row.do for row in ROWS}
# Advice about settings that a start does not give: why, and what it asks for, which must be possible.
TIMM = "needs timm, which is slow to import: tests/models/backbones"
NOT_HERE = {
    "install it (pip install …) or remove it from logging.sinks": ("tests/runtime/test_sinks.py", ["logging.sinks=[]"]),
    "settings are KEY=VALUE without dashes, for example model.upsampler=carafe; …": (
        "of a command line: tests/tools/test_commands.py",
        ["model.upsampler=carafe"],
    ),
    "set model.weights, or take it out of frozen": ("tests/test_start_weights.py", ["frozen=[]"]),
    "take it out of frozen, or name other weights": ("tests/test_start_weights.py", ["frozen=[]"]),
    "set optimizer.layer_decay=null": ("tests/runtime/test_optimizer.py", ["optimizer.layer_decay=null"]),
    "add evaluation.patience=null": ("of tools.compare: tests/tools/test_compare.py", ["evaluation.patience=null"]),
    "…; or add model.backbone.weights=null to start from random numbers": (
        "tests/test_start_weights.py",
        ["model.backbone.weights=null"],
    ),
    "remove it, or set data.min_side=…": ("of tools.check_data: tests/tools/check_data", []),
    "add the files, or correct the list or data.root": ("tests/datasets/test_unusable.py", ["data.root=elsewhere"]),
    "set it to false": (TIMM, []),
    "use 0 or all": (TIMM, []),
    "use fewer, or all": (TIMM, []),
    "set model.backbone.image_size=[…, …], use smaller images, or choose another model": (TIMM, []),
    "set model.backbone.weights=null, or choose another model": (TIMM, ["model.backbone.weights=null"]),
    "choose another model, for example convnext_tiny or a plain vision transformer": (TIMM, []),
    "check the network (and that HF_HUB_OFFLINE is not set), or fetch its file of safetensors elsewhere and set "
    "model.backbone.weights=PATH": (TIMM, ["model.backbone.weights=PATH"]),
    "name weights of …": (TIMM, []),
    "use other weights": (TIMM, []),
    "remove it": (TIMM, []),
    "fetch it again": ("tests/published", []),
    "convert it: tools.convert_weights": ("tests/models/test_load_weights.py", []),
    "name it as model.backbone.weights=… in training": ("tests/published", ["model.backbone.weights=FILE"]),
    "give the machine more memory (or shared memory, /dev/shm), or set fewer …": (
        "a worker has to be killed: tests/faults/test_memory.py",
        ["system.workers=0"],
    ),
    "write masks too, or score the boxes only: data.masks=false": ("of tools.score", ["data.masks=false"]),
    "add model.backbone.weights=FILE": ("tests/models/test_load_weights.py", ["model.backbone.weights=FILE"]),
    "see to it that the folder can be read, then run the same command again; or choose another run_name": (
        "a file system has to fail: tests/runtime/test_checkpoint.py",
        ["run_name=other"],
    ),
    "start one per GPU, or add system.backend=gloo to let them share GPUs": ("needs CUDA", ["system.backend=gloo"]),
    "use the checkpoint that it is exported from, or set evaluation.inference=null": (
        "an exported file: tests/workflow/test_onnx_model.py",
        ["evaluation.inference=null"],
    ),
    "run the same command again with evaluation.pictures=0": ("a disk has to be full", ["evaluation.pictures=0"]),
    "give 1 or more": ("an argument in Python, no setting", []),
    "choose another component, or set it to false": ("needs CUDA", ["system.deterministic=false"]),
    "start another run_name with a lower optimizer.lr, a gradient_clip, or precision=fp32": (
        "a run has to diverge: tests/test_errors.py",
        ["run_name=other", "optimizer.lr=1e-5", "gradient_clip=1", "precision=fp32"],
    ),
    "restore it or choose another run_name": ("tests/runtime/test_checkpoint.py", ["run_name=other"]),
    "choose another run_name, or remove it": ("tests/runtime/test_checkpoint.py", ["run_name=other"]),
    "choose another run_name, or remove … to start over": ("tests/runs", ["run_name=other"]),
    "set 'data.image_range=[…, …]' (the values of black and white)": (
        "needs 16-bit pictures: tests/datasets/files",
        ["data.image_range=[0, 4095]"],
    ),
    "set 'data.image_range=[…, …]' (the values of black and white), or data.image_range=full if they are just dark": (
        "needs 16-bit pictures: tests/datasets/files",
        ["data.image_range=full"],
    ),
    "set data.label_suffix=….png, or …": ("tests/datasets/semantic", ["data.label_suffix=_labels.png"]),
    "add the … or remove this file, or name the images to use in a file, …, or leave such files out with "
    "data.on_error=skip": (
        "tests/datasets/semantic",
        ["data.train_list=list.txt"],
    ),
    "name data with depth, or the other --split; python -m tools.check_data shows what is in them": (
        "of tools.calibrate: tests/tools/test_calibrate.py",
        [],
    ),
    "correct data.root, or get KITTI as docs/depth.md says": ("tests/datasets/nyu", ["data.root=data/kitti"]),
    "give it the size and orientation of its image, or set data.resize_depth=true": (
        "tests/datasets/nyu",
        ["data.resize_depth=true"],
    ),
    "add its counterpart or remove it, or name the pairs in a data.…_list, or leave such files out with "
    "data.on_error=skip": (
        "tests/datasets/nyu",
        ["data.train_list=depth.txt"],
    ),
    "name other files, or set data.depth_scale (now … units per metre) or data.max_depth": (
        "tests/datasets/nyu",
        ["data.depth_scale=1000", "data.max_depth=80"],
    ),
    "write PNGs from native 16-bit integers (NYU's raw PGM files have them swapped); or raise data.max_depth": (
        "tests/datasets/nyu",
        ["data.max_depth=80"],
    ),
    "write a positive number, or no depth_scale for millimetres": ("of a file of predictions, no setting", []),
    "choose a folder outside": ("names an option of a command, no setting", []),
    "check data.depth_scale, and crop, min_depth and max_depth of metrics.depth_errors": (
        "a whole evaluation: tests/metrics/test_depth_errors.py",
        ["data.depth_scale=0.001", "metrics.depth_errors.crop=none"],
    ),
    "check the annotations and ignore_labels": ("a whole evaluation", ["data.ignore_labels=[]"]),
    "name weights of this network, or exclude the tensors that differ by model.weights_exclude": (
        "needs weights: tests/models/test_load_weights.py",
        ["model.weights_exclude=[head.classifier]"],
    ),
    "write …: [model.upsampler=carafe]": ("of --variants", ["model.upsampler=carafe"]),
    "give a model with style='pytorch'": ("an option of mmdetection", []),
    "use one that does; SegFormer with bilinear does with model.one_step=false": (
        "of tools.show_sampling",
        ["model.one_step=false"],
    ),
}


def about_settings() -> list[Advice]:
    """The advice that names a setting, or whose error does. What is all gap (`did you mean …?`) is in test_config."""
    return [
        advice
        for advice in all_advice()
        if settings_in(f"{advice.where} {advice.what} {advice.do}")
        and advice.do.strip(GAP)
        and advice.place != "config"
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.task}: {row.do}")
def test_advice_that_is_followed_is_not_given_again(row, scenes, tmp_path):
    row.prepare(tmp_path)
    root = scenes / ROOTS[row.task]
    common = [f"data.root={root}", "system.device=cpu"]

    def arguments(words: list[str]) -> list[str]:
        return [*common, *(word.replace("ROOT", str(root)).replace("HERE", str(tmp_path)) for word in words)]

    error = start(row.task, arguments(row.wrong))
    assert error is not None
    pattern = re.escape(row.do).replace(re.escape(GAP), ".*")
    assert re.search(rf"; {pattern}$", error), error
    # What a message says to set is pasted into a shell.
    follow = pasted(error) if row.follow is None else row.follow
    after = start(row.task, arguments([*([] if row.instead else row.wrong), *follow]))
    assert after is None or (after.partition("; ")[2] != error.partition("; ")[2] and "not possible" not in after), (
        after
    )


@pytest.mark.parametrize("do", NOT_HERE)
def test_advice_that_is_given_later_is_possible(do):
    _, follow = NOT_HERE[do]
    task = "depth" if "depth" in do else "det" if "boxes" in do else "seg"
    load_experiment(ROOT / f"configs/small/{task}.yaml", follow)


def test_every_advice_about_settings_is_tried():
    missing = [advice for advice in about_settings() if advice.do not in DONE and advice.do not in NOT_HERE]
    assert not missing, "\n".join(map(str, missing))


def test_what_is_tried_is_still_advised():
    given = {advice.do for advice in all_advice()}
    assert [do for do in NOT_HERE if do not in given] == []


def test_errors_name_settings_that_exist():
    unknown = [
        (advice.place, key)
        for advice in all_advice()
        for key in DOTTED.findall(f"{advice.where} {advice.what} {advice.do}")
        if not is_key(key)
    ]
    assert unknown == []


def test_errors_name_files_and_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for advice in all_advice():
        for name in re.findall(r"(?:docs|configs)/[\w*./-]*\w", advice.do):
            assert list(ROOT.glob(name)), advice
        for name in re.findall(r"\btools\.\w+", advice.do):
            assert name in sources(), advice
        for target in re.findall(r"\bmake ([a-z]+)-?[a-z]*(?=$|[,;`])", advice.do):
            assert re.search(rf"^{target}(-%)?:", makefile, re.MULTILINE) or target in ("room",), advice


def test_advice_with_spaces_in_a_path_can_be_pasted(scenes, tmp_path):
    (tmp_path / "set #2").symlink_to(scenes)
    error = start("seg", [f"data.root={tmp_path}/set #2"])
    assert error is not None
    assert pasted(error) == [f"data.root={tmp_path}/set #2/ADEChallengeData2016"]
