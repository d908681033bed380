"""Configurations that are malformed, misspelt, impossible or made to harm: one line each, and nothing on disk."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from errors import run_command
from experiment import load_experiment
from tests.conftest import ROOT, TINY
from tests.faults.hostile_files.test_hostile_checkpoints import leave_a_gigabyte, refused
from tests.launch import Done, run

CHAPTER = "Hostile input"
DEMOS = ("maskformer", "det", "inst", "pan", "depth")


@dataclass
class Case:
    """A wrong configuration: a file, KEY=VALUE arguments, or both. named: what the error must name besides the file."""

    text: str | bytes = "base: whole.yaml\n"
    words: list[str] = field(default_factory=list)
    named: str = ""
    files: dict[str, str] = field(default_factory=dict)  # beside it


def nested(keys: list[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def overlay(keys: list[str], value: Any, base: str = "whole") -> Case:
    """A file that changes one key of a valid one."""
    return Case(yaml.safe_dump({"base": f"{base}.yaml", **nested(keys, value)}), named=".".join(keys))


def mappings(config: Any, keys: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """The places of all mappings in a configuration, but for the free keys of classes."""
    if isinstance(config, dict) and keys[-1:] != ("classes",):
        yield list(keys)
        for key, value in config.items():
            yield from mappings(value, (*keys, str(key)))


def leaves(config: dict, keys: tuple[str, ...] = ()) -> Iterator[list[str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value and key != "classes":
            yield from leaves(value, (*keys, key))
        else:
            yield [*keys, key]


def misspelt(name: str, config: dict) -> Iterator[tuple[str, Case]]:
    for keys in mappings(config):
        yield f"{name}: {'.'.join([*keys, 'zteps'])}", overlay([*keys, "zteps"], 1, name)


WRONG = {
    "mapping": {"zz": 1},
    "not a number": float("nan"),
    "infinite": float("inf"),
    "list of lists": [[[1]]],
    "date": "2026-01-02",  # dumped without quotes below
    "huge": 10**30,
    "negative": -7,
    "fraction": 1.37,
    "yes": True,
    "word": "zzz",
    "empty word": "",
}
# Whatever stands there, these are wrong; the others depend on the key.
ALWAYS = ("mapping", "not a number", "list of lists", "date")
NUMBERS = {
    "steps": ("infinite", "huge", "negative", "fraction", "yes", "word", "empty word"),
    "batch_size": ("infinite", "huge", "negative", "fraction", "yes", "word", "empty word"),
    "seed": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "optimizer.lr": ("infinite", "negative", "yes", "word"),
    "optimizer.weight_decay": ("infinite", "negative", "yes", "word"),
    "optimizer.betas": ("infinite", "huge", "negative", "yes", "word"),
    "gradient_clip": ("infinite", "negative", "yes", "word"),
    "ema_decay": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "precision": ("infinite", "huge", "yes", "word", "empty word"),
    "schedule.warmup_steps": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "schedule.warmup_ratio": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "evaluation.every": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "evaluation.batch_size": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "evaluation.best": ("infinite", "huge", "yes", "word", "empty word"),
    "system.workers": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "system.device": ("infinite", "huge", "yes", "word"),
    "system.compile": ("infinite", "huge", "negative", "fraction", "word"),
    "model.channels": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "model.upsampler.groups": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "model.upsampler.scope": ("infinite", "negative", "yes", "word"),
    "model.dropout": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "run_name": ("infinite", "huge", "fraction", "yes", "empty word"),
    "data.first_label": ("infinite", "huge", "negative", "fraction", "yes", "word"),
    "metrics": ("infinite", "huge", "yes", "word", "empty word"),
}


def wrong_types(name: str, config: dict) -> Iterator[tuple[str, Case]]:
    for keys in leaves(config):
        dotted = ".".join(keys)
        if keys[-1] == "name":
            continue
        for kind in (*ALWAYS, *NUMBERS.get(dotted, ())):
            if kind == "mapping" and keys[-1] == "classes":
                continue
            case = overlay(keys, WRONG[kind], name)
            if kind == "date":
                case.text = str(case.text).replace("'2026-01-02'", "2026-01-02")
            case.named = keys[0]
            yield f"{name}: {dotted} {kind}", case


def texts(canary: Path) -> dict[str, Case]:
    """Files that are no plain YAML, or not the YAML that they seem to be."""
    start = "base: whole.yaml\n"
    call = f"!!python/object/apply:os.system ['touch {canary}']"
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    contents: dict[str, str | bytes] = {
        "empty": "",
        "blank": "\n  \n",
        "comments": "# nothing\n# at all\n",
        "scalar": "steps\n",
        "number": "17\n",
        "list": "- steps: 1\n",
        "null": "null\n",
        "document end": "...\n",
        "several documents": f"{start}---\nsteps: 3\n",
        "twice at the root": f"{start}steps: 3\nsteps: 4\n",
        "twice below": start + "model:\n  upsampler: {groups: 1, groups: 2}\n",
        "twice in a list": start + "data:\n  train_transforms:\n  - {name: normalize, name: pad}\n",
        "twice in other words": start + "data: {classes: {1: a, 0x1: b}}\n",
        "twice in quotes": start + "data: {classes: {1: a, '1': b}}\n",
        "tab": start + "system:\n\tworkers: 0\n",
        "tab in front": "\tsteps: 1\n",
        "unclosed": start + "model: {upsampler: dysample\n",
        "unclosed quote": start + "run_name: 'x\n",
        "indented": start + "model:\n upsampler: carafe\n   channels: 3\n",
        "latin-1": (start + "run_name: caf\xe9\n").encode("latin-1"),
        "utf-16": (start + "steps: 3\n").encode("utf-16"),
        "utf-16 without mark": (start + "steps: 3\n").encode("utf-16-le"),
        "utf-32": (start + "steps: 3\n").encode("utf-32"),
        "cut character": (start + "run_name: caf\xe9").encode()[:-1],
        "surrogate": start.encode() + b"run_name: \xed\xa0\x80\n",
        "escaped surrogate": start + 'run_name: "\\uD800"\n',
        "NUL": start + "run_name: a\0b\n",
        "escaped NUL": start + 'output_dir: "a\\0b"\n',
        "NUL in a base": 'base: "whole\\0.yaml"\n',
        "bytes": bytes(range(256)),
        "zeros": bytes(1000),
        "aliases": start + "optimizer: &o {lr: 1}\nschedule: *o\n",
        "alias bomb": bomb,
        "merge key": start + "<<: {steps: 3}\n",
        "merge of an anchor": start + "a: &a {steps: 3}\nb: {<<: *a}\n",
        "unknown alias": start + "steps: *nothing\n",
        "alias of itself": start + "model: &m [*m]\n",
        "python call": start + f"run_name: {call}\n",
        "python call as a key": start + f"? {call}\n: 1\n",
        "python name": start + "run_name: !!python/name:os.system\n",
        "python module": start + "run_name: !!python/module:os\n",
        "python object": start + "run_name: !!python/object:collections.Counter {}\n",
        "python new": start + f"run_name: !!python/object/new:os.system ['touch {canary}']\n",
        "own tag": start + "steps: !mine 3\n",
        "tag of a prefix": f"%TAG ! tag:yaml.org,2002:python/\n---\n{start}run_name: !name:os.system\n",
        "binary": start + "run_name: !!binary aGVsbG8=\n",
        "set": start + "metrics: !!set {mean_iou}\n",
        "timestamp": start + "run_name: !!timestamp 2026-01-02\n",
        "omap": start + "metrics: !!omap [a: 1]\n",
        "int of a word": start + "steps: !!int word\n",
        "int of nothing": start + "steps: !!int ''\n",
        "float of nothing": start + "steps: !!float ''\n",
        "bool of a word": start + "sync_batch_norm: !!bool word\n",
        "impossible date": start + "run_name: 2026-13-45\n",
        "date for a text": start + "run_name: 2026-01-02\n",
        "number for a text": start + "run_name: 20260102\n",
        "zeros for a text": start + "run_name: 001\n",
        "truth for a class": start + "data: {classes: [yes, no]}\n",
        "number for a class": start + "data: {classes: [a, 1]}\n",
        "truth for a class id": start + "data: {name: coco, root: /, classes: {no: a}}\n",
        "date as a key": start + "2026-01-02: 2\n",
        "octal": start + "steps: 010\n",
        "base 60": start + "steps: 1:30\n",
        "float of base 60": start + "optimizer: {lr: 1:30.5}\n",
        "thousands of digits": start + f"steps: {'9' * 5000}\n",
        "many digits": start + f"steps: {'9' * 30}\n",
        "long word": start + f"precision: {'a' * 100_000}\n",
        "long name": start + f"model: {{upsampler: {'a' * 100_000}}}\n",
        "long key": start + f"{'a' * 900}: 1\n",
        "control characters": start + 'precision: "\\e[2J\\n\\r\\a"\n',
        "number as a key": start + "1: 2\n",
        "null as a key": start + "null: 2\n",
        "truth as a key": start + "yes: 2\n",
        "list as a key": start + "[a]: 2\n",
        "mapping as a key": start + "{a: 1}: 2\n",
        "brackets": "a: " + "[" * 10_000,
        "closed brackets": "a: " + "[" * 10_000 + "]" * 10_000,
        "braces": "a: " + "{a: " * 10_000,
        "dashes": "- " * 10_000,
        "question marks": "? " * 10_000,
        "deep list": start + "steps: " + "[" * 45 + "]" * 45 + "\n",
        "large": start + "#" * 200_000 + "\n",
        "long list": start + "metrics: [" + "a," * 5_000 + "]\n",
        "base of itself": "base: case.yaml\n",
        "base of nothing": "base: missing.yaml\n",
        "base of a list": "base: [whole.yaml]\n",
        "base of a mapping": "base: {a: whole.yaml}\n",
        "base of a number": "base: 3\n",
        "base of truth": "base: true\n",
        "base of an empty word": "base: ''\n",
        "base of a folder": "base: .\n",
        "base of a missing absolute path": "base: /proc/nowhere/whole.yaml\n",
        "base of the home": "base: ~/whole.yaml\n",
        "base of a device": "base: /dev/zero\n",
        "base of a terminal": "base: /dev/stdin\n",
        "base of a long name": f"base: {'a' * 5000}\n",
        "base of a picture": f"base: {ROOT}/docs/images/demo.jpg\n",
        "several wrong keys": start + "stpes: 1\nbatchsize: 2\nmodle: {}\n",
        "nothing for a section": start + "model:\n",
        "a word for a section": start + "system: fast\n",
        "a list for a section": start + "optimizer: [adamw]\n",
        "a list item too far": start + "data: {train_transforms: {9: {size: [1, 1]}}}\n",
        "no list item": start + "metrics: {}\n",
        "list item of a word": start + "data: {train_transforms: {first: {size: [1, 1]}}}\n",
    }
    cases = {name: Case(text) for name, text in contents.items()}
    cases["circle of two"] = Case("base: two.yaml\n", files={"two.yaml": "base: case.yaml\n"})
    three = {"two.yaml": "base: three.yaml\n", "three.yaml": "base: case.yaml\n"}
    cases["circle of three"] = Case("base: two.yaml\n", files=three)
    chain = {f"c{index}.yaml": f"base: c{index + 1}.yaml\n" for index in range(1500)}
    cases["chain without end"] = Case("base: c0.yaml\n", files=chain)
    cases["wrong base"] = Case("base: two.yaml\n", files={"two.yaml": "base: whole.yaml\nsteps: [\n"}, named="two.yaml")
    return cases


IMPOSSIBLE = [
    "model.upsampler.groups=3",
    "model.upsampler={name: dysample, groups: 5}",
    "model.upsampler={name: dysample, kernel: 5}",
    "model.upsampler={name: carafe, dyscope: true}",
    "model.upsampler={name: bilinear, groups: 4}",
    "model.upsampler={name: dysample, scope: 0}",
    "model.upsampler={name: dysample, dyscope: maybe}",
    "model.upsampler={name: dysample, dyscope: false, scope_bias: true}",
    "model.upsampler={name: dysample, style: lpp}",
    "model.upsampler={name: dysample, start: bicubic}",
    "model.upsampler={groups: 2, name: dysample, extra: {}}",
    "model.upsampler={name: [dysample]}",
    "model.upsampler={name: {}}",
    "model.upsampler=[]",
    "model.upsampler=",
    "model.upsampler=3",
    "model.upsampler=dysample++",
    "model.backbone.channels=[8, 16, 40]",
    "model.backbone.channels=[8, 16, 40, 65]",
    "model.backbone.channels=[8, 16, 40, 0]",
    "model.backbone.depths=[0, 1, 1, 1]",
    "model.backbone.depths=[1000000000, 1, 1, 1]",
    "model.backbone=resnet5",
    "model.backbone=segformer",
    "model.backbone.depths=[1001, 1, 1, 1]",
    "model.channels=1000000000",
    "model.channels=0",
    "model=maskformer2",
    "model=faster_rcnn",
    "model=depthformer",
    "model=panoptic_fpn",
    "data=nyu",
    "data=coco",
    "data={name: ade20k, root: /proc/nowhere}",
    "data.root=/dev/null",
    "data.root=",
    "data.root= ",
    "data.root=null",
    "data.root=a\0b",
    "data.root=a\udcff",
    "data.root=/proc/nowhere #2",
    "model.weights=",
    "data.classes=[]",
    "data.classes=[wall, wall]",
    "data.classes=wall",
    "data.classes=[1, 2]",
    "data.classes=[['a']]",
    "data.classes=[wall, floor #2]",
    "data.classes=[yes, no]",
    "data.classes=[a, 2026-01-02]",
    "data.first_label=70000",
    "data.ignore_labels=[-1]",
    "data.ignore_labels=[70000]",
    "data.ignore_labels=[3]",
    "data.train_transforms.0.size=[0, 64]",
    "data.train_transforms.0.size=[64]",
    "data.train_transforms.0.size=[64, 64, 64]",
    "data.train_transforms.0.size=64",
    "data.train_transforms.0.size=[1.5, 64]",
    "data.train_transforms.3.size=[1000000000, 64]",
    "data.train_transforms.9.size=[64, 64]",
    "data.train_transforms.-1.size=[64, 64]",
    "data.train_transforms.\u00b2.size=[64, 64]",
    "data.train_transforms.999999999999.size=[64, 64]",
    f"data.train_transforms.{'9' * 5000}.size=[64, 64]",
    "data.train_transforms.first.size=[64, 64]",
    "data.train_transforms.0=random_crop",
    "data.train_transforms.0=nothing",
    "data.train_transforms=[normalize, normalize]",
    "data.train_transforms=[normalize, photometric_distortion]",
    "data.train_transforms=normalize",
    "data.train_transforms={}",
    "data.train_transforms=[{name: crop_window, top: 40, left: 0, size: [40, 40]}, normalize]",
    "data.train_transforms=[{name: random_crop, size: [64, 64], max_class_share: 2}, normalize]",
    "data.train_transforms=[{name: resize_random, long: 10, short: 10, ratio_range: [2, 1]}, normalize]",
    "data.train_transforms=[{name: resize_random, long: 10, short: 10, ratio_range: [0, 1]}, normalize]",
    "data.train_transforms=[{name: resize_fit, long: 1000000000, short: 1000000000}, normalize]",
    "data.train_transforms=[{name: normalize, std: [0, 1, 1]}]",
    "data.train_transforms=[{name: random_flip, probability: 1.1}, normalize]",
    "data.test_transforms=[normalize, random_flip]",
    "data.test_transforms=[{name: resize_to_multiple, multiple: 0}, normalize]",
    "data.test_transforms=[{name: resize_to_multiple, multiple: 1000000000}, normalize]",
    "metrics=[]",
    "metrics={}",
    "metrics=[coco_ap]",
    "metrics=[depth_errors]",
    "metrics=[panoptic_quality]",
    "metrics=[mean_iou, coco_ap]",
    "metrics=[mean_iou, mean_iou]",
    "metrics=mean_iou",
    "metrics.1=mean_iou",
    "evaluation.every=0",
    "evaluation.best=PQ",
    "evaluation.pictures=-1",
    "logging.every=0",
    "logging.checkpoint_every=0",
    "steps=0",
    "steps=1.5",
    "steps=1e3.0",
    "steps=",
    "steps=3 # three",
    "steps=2026-01-02",
    "batch_size=0",
    "batch_size=1000000000",
    "optimizer.lr=0",
    "optimizer.lr=1e400",
    "optimizer.lr_batch_size=0",
    "optimizer.momentum=0.9",
    "optimizer=sgd",
    "optimizer={name: sgd, lr: 1, betas: [0.9, 0.9]}",
    "optimizer.betas=[1, 0.9]",
    "optimizer.betas=[0.9]",
    "optimizer.rules=[{match: ''}]",
    "optimizer.rules=[{lr_scale: 2}]",
    "optimizer.rules=[{match: no.such.parameter}]",
    "optimizer.rules=[{match: norm, lr_scale: 0}]",
    "schedule=linear",
    "schedule.power=0",
    "schedule={name: multistep, milestones: [2]}",
    "schedule={name: cosine, power: 1}",
    "system.workers=100000",
    "system.max_per_process=0",
    "system.device=tpu",
    "gradient_clip=0",
    "ema_decay=1",
    "precision=fp64",
    "run_name=../escaped",
    "run_name=-x",
    "run_name=a b",
    "run_name='a b'",
    "run_name=\u00e9\n",
    "run_name=",
    "seed=-1",
    "seed=9223372036854775808",
    "base=whole.yaml",
    "steps.a=1",
    "steps.0=1",
    "=1",
    ".=1",
    "steps..a=1",
    "steps",
    "a" * 100_000 + "=1",
    "steps=[1",
    "steps={a: 1, a: 2}",
    "steps=!!python/name:os.system",
    "steps=*a",
    "steps=" + "[" * 10_000,
    ".".join(["model"] * 10_000) + "=1",
    ".".join(["steps"] * 10_000) + "=1",
]


@pytest.fixture(scope="module")
def folder(scenes, tmp_path_factory) -> Path:
    """Valid configurations: whole.yaml, which can run, and those of the demos."""
    folder = tmp_path_factory.mktemp("hostile")
    run("train")  # the first command waits for the launcher to start
    options = [*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={folder}/out"]
    whole = load_experiment(ROOT / "configs/small/seg.yaml", options).dump()
    (folder / "whole.yaml").write_text(yaml.safe_dump(whole))
    for name in DEMOS:
        config = load_experiment(ROOT / f"configs/small/{name}.yaml", [f"output_dir={folder}/out"]).dump()
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def generated(folder: Path) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name in ("whole", *DEMOS):
        config = yaml.safe_load((folder / f"{name}.yaml").read_text())
        spelt, typed = list(misspelt(name, config)), list(wrong_types(name, config))
        if name != "whole":  # much is the same in all
            typed = random.Random(0).sample(typed, 25)
        cases |= dict([*spelt, *typed])
    return cases


def write(folder: Path, case: Case) -> Path:
    path = folder / "case.yaml"
    path.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
    for name, text in case.files.items():
        (folder / name).write_text(text)
    return path


def is_refused(folder: Path, case: Case, done: Done) -> bool:
    """Whether the one line names the place of the mistake, and nothing but the files of the test is there."""
    named = "case.yaml" in done.err or (bool(case.named) and case.named in done.err)
    valid = {"case.yaml", "whole.yaml", *(f"{name}.yaml" for name in DEMOS), *case.files}
    return refused(done, "") and named and {path.name for path in folder.iterdir()} <= valid


def test_wrong_keys_and_types(folder, every, tally, monkeypatch, capsys):
    cases, lost = list(generated(folder).items()), []
    chosen = cases if every else random.Random(0).sample(cases, 60)
    for name, case in chosen:
        path = write(folder, case)
        monkeypatch.setattr(sys, "argv", ["train", "--cfg", str(path), "--check"])
        start = time.monotonic()
        with pytest.raises(SystemExit) as stop:
            run_command(train.main)
        out, err = capsys.readouterr()
        done = Done([stop.value.code], out, err, time.monotonic() - start)
        if not is_refused(folder, case, done):
            lost.append((name, done))
    report(tally, "keys misspelt at every level, values of every wrong type", chosen, lost)


@pytest.mark.parametrize("group", ["files", "arguments"])
def test_malformed_files_and_impossible_values(folder, every, tally, group):
    if group == "files":
        cases = list(texts(folder / "canary").items())
        what = "malformed, oversized, self-referring and executable YAML files, bases that go nowhere or in circles"
    else:
        cases = [
            (word, Case(words=[word], named=word.partition("=")[0].split(".")[0][:100] or word)) for word in IMPOSSIBLE
        ]
        what = "impossible values and combinations as KEY=VALUE arguments"
    chosen = cases if every else random.Random(0).sample(cases, 10)
    lost = []
    for name, case in chosen:
        path = write(folder, case)
        try:
            done = run("train", "--cfg", path, "--check", *case.words, sabotage=[leave_a_gigabyte], seconds=30)
        except TimeoutError as error:
            done = Done([-1], "", str(error), 30)
        if not is_refused(folder, case, done):
            lost.append((name, done))
        for extra in case.files:
            (folder / extra).unlink()
    report(tally, what, chosen, lost)


def report(tally: Callable[..., None], what: str, chosen: list[tuple[str, Case]], lost: list[tuple[str, Done]]) -> None:
    what += ": one line that names the place, exit code 2, below 5 s, nothing run, nothing on disk"
    tally(CHAPTER, what, tried=len(chosen), lost=len(lost))
    assert not lost, "\n".join(f"{name[:100]}: {done}"[:1500] for name, done in lost)


@pytest.mark.whole
def test_unusual_but_valid_files(folder, tally):
    start = "base: whole.yaml\nsteps: 3\n"
    texts = {
        "byte order mark": ("\ufeff" + start).encode(),
        "CRLF": start.replace("\n", "\r\n").encode(),
        "no newline at the end": start.rstrip().encode(),
        "document marks": f"%YAML 1.1\n---\n{start}...\n".encode(),
        "JSON": b'{"base": "whole.yaml", "steps": 3}',
        "an absolute base": f"base: {folder}/whole.yaml\nsteps: 3\n".encode(),
        "an anchor that nothing refers to": start.replace("3", "&three 3").encode(),
    }
    lost, chosen = [], list(texts.items())
    for name, text in chosen:
        done = run("train", "--cfg", write(folder, Case(text)), "--check")
        if done.code != 0 or "steps       3 " not in done.out:
            lost.append((name, done))
    what = "unusual but valid YAML files (byte order mark, CRLF, JSON): read as they are meant"
    tally(CHAPTER, what, tried=len(chosen), lost=len(lost))
    assert not lost
