"""From a clone to a result: the README's commands for each task, with a server on the loopback address as the internet.

It has the embedded scenes in the official archives, and random weights under the published names. Commands are as
printed, apart from where data and runs lie and how large and long a run is.
"""

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import downloads
from datasets.coco.dataset import CLASSES
from datasets.panoptic.categories import CATEGORIES
from published.index import find
from tests import launch
from tests.conftest import ROOT, SHORT, read
from tests.loopback import Server, serve
from tests.published.converters.reference_segformer import hub_state
from tests.tools.test_prepare_archives import zipped
from tests.tools.test_prepare_nyu import nyu_files, training_frames
from tools.prepare_ade20k import ARCHIVE
from tools.prepare_coco import PARTS

RUN = ["steps=2", "evaluation.pictures=1", "batch_size=2", *SHORT[3:]]
DETECTOR = ["data.train_transforms.0={long: 64, short: 48}", "data.test_transforms.0={long: 64, short: 48}"]
# What makes each recipe small enough.
TABLE = ROOT / "docs/real_data.md"
SMALL = {
    "seg_dysample": [
        "model.backbone=mit_b0",
        "data.train_transforms.resize_random={long: 256, short: 64}",
        "data.train_transforms.random_crop.size=[64, 64]",
        "data.train_transforms.pad.size=[64, 64]",
        "data.test_transforms.resize_fit={long: 256, short: 64}",
    ],
    "det_dysample": DETECTOR,
    "inst_dysample": DETECTOR,
    "pan_dysample": DETECTOR,
    "depth_dysample": [
        *("model.channels=32", "model.stem_channels=8", "model.flip_test=false"),
        "data.train_transforms.random_crop.size=[64, 64]",
        "data.test_transforms=[{name: resize_fit, long: 128, short: 96}, normalize]",
    ],
}


@pytest.fixture(autouse=True)
def official_addresses(monkeypatch):
    monkeypatch.delenv("DENSEUP_MIRROR")


def commands(name: str) -> list[list[str]]:
    """The README's four commands for one of its configurations: prepare, check, train, eval."""
    block = re.search(r"## Real data\n+```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    text = TABLE.read_text()
    assert block in text
    words = [
        shlex.split(line, comments=True)[1:] for line in block.splitlines() if "python" in line or "torchrun" in line
    ]
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+) \|", text, re.MULTILINE)
    data, prepare = "", {}
    for row, cell in rows:
        data = cell if "`" in cell else data  # "the same"
        prepare[row] = shlex.split(re.search(r"`([^`]+)`", data)[1])
    assert prepare["seg_dysample"] == words[0][1:]
    words[0] = ["-m", *prepare[name]]
    return [[word.replace("seg_dysample", name) for word in line] for line in words]


def weights_of(name: str) -> bytes:
    """A file of random weights in the layout of an entry of the index."""
    if name == "mit_b0_imagenet":
        state = {key: value for key, value in hub_state(150).items() if "decode_head" not in key}
    elif name == "resnet50_imagenet":
        import torchvision

        state = torchvision.models.resnet50().state_dict()
    else:
        import timm

        return save(
            {k: v.contiguous() for k, v in timm.create_model("swin_tiny_patch4_window7_224").state_dict().items()}
        )
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def with_official_categories(coco: Path, folder: Path) -> Path:
    """A copy of the scenes whose annotations have COCO's categories, since those are what the recipes learn."""
    shutil.copytree(coco, folder)
    things = [{"id": number, "name": name} for number, name in CLASSES.items()]
    everything = [
        {"id": number, "name": item.name, "isthing": int(item.isthing)} for number, item in CATEGORIES.items()
    ]
    for path in (folder / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        content["categories"] = everything if "panoptic" in path.name else things
        for record in content["annotations"]:
            for entry in record.get("segments_info", [record]):  # a number that COCO leaves out: the next one
                entry["category_id"] = min(key for key in CATEGORIES if key >= entry["category_id"])
        path.write_text(json.dumps(content))
    return folder


def internet(scenes: Path, folder: Path, task: str) -> dict[str, bytes]:
    """The files that the commands for a task fetch, by the path of their address."""
    pngs = ["annotations/panoptic_train2017", "annotations/panoptic_val2017"]
    name = {"seg": "mit_b0_imagenet", "depth": "swin_t_imagenet"}.get(task, "resnet50_imagenet")
    contents = {find(name).address: weights_of(name)}
    if task == "seg":
        contents[ARCHIVE.url] = zipped(scenes, ["ADEChallengeData2016"])
    elif task == "depth":
        contents |= nyu_files(folder)
    else:
        coco = with_official_categories(scenes / "coco", folder / "coco")
        contents |= {PARTS[split].url: zipped(coco, [split]) for split in ("train2017", "val2017")}
        instances = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
        contents[PARTS["instances"].url] = zipped(coco, instances)
        contents[PARTS["panoptic"].url] = zipped(coco, [f"{png}.json" for png in pngs], inner=pngs)
    return {urllib.parse.urlsplit(url).path: content for url, content in contents.items()}


def go_to(server: str, cache: str, digests: dict[str, str]) -> None:
    """In the process of a command: every address leads to the server, and what it has counts as published."""
    os.environ.pop("DENSEUP_MIRROR", None)
    os.environ["DENSEUP_CACHE"] = cache
    urlopen, problem = urllib.request.urlopen, downloads._problem_with

    def to_server(request: urllib.request.Request, **named: object) -> object:
        request.full_url = server + urllib.parse.urlsplit(request.full_url).path
        return urlopen(request, **named)

    def as_published(file: downloads.RemoteFile, path: Path) -> str | None:
        digest = digests[urllib.parse.urlsplit(file.url).path]
        return problem(replace(file, digest=digest, size=None), path)

    urllib.request.urlopen, downloads._problem_with, downloads.PAUSE_SECONDS = to_server, as_published, 0


def travel(name: str, server: type[Server], home: Path, only: Sequence[int] = range(4)) -> None:
    """Do the README's four commands for a configuration, or some of them, below `home`."""
    digests = {path: f"sha256:{hashlib.sha256(content).hexdigest()}" for path, content in server.files.items()}
    here = partial(go_to, server.url, str(home / "cache"), digests)
    prepare, check, train, score = commands(name)
    root = home / prepare[prepare.index("--root") + 1]
    data = root / "ADEChallengeData2016" if name == "seg_dysample" else root
    prepare[prepare.index("--root") + 1] = str(root)
    small = [*SMALL[name], f"data.root={data}"]
    if name == "depth_dysample":  # which the command cannot fetch, and says so
        training_frames(root)
    train = [*train[train.index("train.py") :], *small, *RUN, f"output_dir={home}/runs"]
    written = {f"runs/{name}", "check.html", "result.json"}
    lines = [prepare[1:], [*check[1:], *small], train, score]
    for program, *words in [lines[index] for index in only]:
        arguments = [str(home / word) if word in written else word for word in words]
        done = launch.run(program.removesuffix(".py"), *arguments, sabotage=[here], seconds=400)
        accepted = (0, 1) if program == "tools.check_data" else (0,)  # 1: findings that training survives
        assert done.code in accepted, f"{program} {words}\n{done.out}\n{done.err}"


def bytes_of(home: Path) -> dict[str, bytes]:
    """All files that were fetched or made of them, data and weights."""
    folders = [home / "data", home / "cache/weights"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {str(path.relative_to(home)): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_semantic_segmentation_from_a_clone_to_a_score(scenes, tmp_path):
    with serve(internet(scenes, tmp_path, "seg")) as server:
        travel("seg_dysample", server, tmp_path)
        assert sorted(path for path, _ in server.requests) == sorted(server.files)  # each once
    assert read(tmp_path / "result.json")["num_images"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_each_task_from_a_clone_to_a_score_also_where_every_download_is_cut(name, scenes, tmp_path):
    with serve(internet(scenes, tmp_path, name.partition("_")[0])) as server:
        travel(name, server, tmp_path / "whole")
        fetched = [path for path, _ in server.requests]
        assert len(fetched) == len(set(fetched))
        assert read(tmp_path / "whole/result.json")["num_images"] >= 3
        server.requests.clear()
        # Every download breaks in its middle; it then goes on to its end.
        sizes = [len(server.files[path]) for path in fetched]
        server.cuts = [length for size in sizes for length in (size // 2, size)]
        travel(name, server, tmp_path / "cut", only=(0, 2))  # those that fetch
        assert sum(asked is not None for _, asked in server.requests) == len(sizes)
    whole, cut = bytes_of(tmp_path / "whole"), bytes_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert [path for path in whole if whole[path] != cut[path]] == []


def test_every_configuration_of_the_table_is_tried_or_has_a_page():
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+)\|", TABLE.read_text(), re.MULTILINE))))
    assert named == {*SMALL, "maskformer_swinb_dysample", "depth_kitti_dysample", "probe_seg", "probe_depth"}
    assert all((ROOT / f"configs/{name}.yaml").exists() for name in named)
