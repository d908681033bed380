"""Weights by name: from a server on the loopback address, with random weights in the published layout, to a model."""

import hashlib
import io
import json
import multiprocessing
import resource
import sys

import pytest
import torch
from safetensors.torch import save

import downloads
from errors import UserError
from experiment import load_experiment
from models.weights import IMAGENET
from predictor import Predictor
from published.cache import cache_folder, check, is_word, obtain, stored
from published.converters.sources import SOURCES
from published.index import entries, find
from tests.conftest import ROOT
from tests.loopback import serve
from tests.published.converters.reference_segformer import hub_state
from tools import weights as command

CFG = "configs/seg_bilinear.yaml"
WHOLE, ENCODER = "segformer_b0_ade20k", "mit_b0_imagenet"
SIZE = ["model.backbone=mit_b0"]


@pytest.fixture(scope="module")
def whole():
    return hub_state(150)


@pytest.fixture
def server(whole, tmp_path, monkeypatch):
    """Serves a SegFormer and a MiT of random weights; the index has their digests; the cache is empty."""
    encoder, file = {name: value for name, value in whole.items() if "decode_head" not in name}, io.BytesIO()
    torch.save(encoder, file)
    files = {f"/{find(WHOLE).file}": save(whole), f"/{find(ENCODER).file}": file.getvalue()}
    for name in (WHOLE, ENCODER):
        content = files[f"/{find(name).file}"]
        facts = {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
        monkeypatch.setitem(entries(), name, find(name).model_copy(update=facts))
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path / "cache"))
    with serve(files) as server:
        monkeypatch.setenv("DENSEUP_MIRROR", server.url)
        yield server


def recipe(*overrides):
    return load_experiment(ROOT / CFG, [*SIZE, *overrides])


def test_a_recipe_starts_from_imagenet_weights_fetched_once(server, whole, capsys):
    experiment = recipe()
    experiment.fetch_weights()
    model = experiment.build_model()
    recipe().fetch_weights()
    assert len(server.requests) == 1
    printed = capsys.readouterr().out
    assert printed.count("Licence: NVIDIA Source Code License") == 1
    theirs = whole["segformer.encoder.patch_embeddings.0.proj.weight"]
    assert any(torch.equal(value, theirs) for value in model.backbone.state_dict().values())
    assert experiment.describe_weights() == f"backbone from {ENCODER}; all else starts from random numbers"
    record = json.loads(stored(ENCODER).with_suffix(".json").read_text())
    assert record["licence"] == find(ENCODER).licence
    assert not any((cache_folder() / "downloads").glob("*.bin"))  # the original is converted and gone


def test_until_they_are_fetched_a_model_is_built_from_random_numbers(server):
    undecided, declined = recipe().build_model(), recipe("model.backbone.weights=null").build_model()
    assert all(torch.equal(a, b) for a, b in zip(undecided.parameters(), declined.parameters(), strict=True))
    assert server.requests == []


def test_a_whole_model_by_name(server, whole):
    model = recipe(f"model.weights={WHOLE}").build_model()
    assert torch.equal(model.head.classifier.weight, whole["decode_head.classifier.weight"])


def test_a_name_that_does_not_exist_is_corrected(server):
    with pytest.raises(UserError, match=r"segformer_b1_ade2k: is neither .*; did you mean segformer_b1_ade20k\?"):
        recipe("model.weights=segformer_b1_ade2k").fetch_weights()
    with pytest.raises(UserError, match=f"did you mean {WHOLE}"):
        find("segformer_b0_ade2k")


def test_a_file_of_the_name_is_the_file(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_word(WHOLE)
    (tmp_path / WHOLE).touch()
    assert not is_word(WHOLE)


def test_a_url_is_fetched_and_checked_by_the_digits_in_its_name(server, whole, tmp_path):
    state = recipe().build_model(pretrained=False).state_dict()
    content = save(state)
    digits = hashlib.sha256(content).hexdigest()[:8]
    server.files |= {f"/own-{digits}.safetensors": content, "/own-01234567.safetensors": content}
    model = recipe(f"model.weights={server.url}/own-{digits}.safetensors").build_model()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"has sha256 .* where 01234567"):
        recipe(f"model.weights={server.url}/own-01234567.safetensors").build_model()


def test_a_published_model_predicts_with_its_classes(server, scenes):
    predictor = Predictor(WHOLE, device="cpu")
    image = min((scenes / "ADEChallengeData2016/images/validation").iterdir())
    assert predictor(image).semantic.shape == (48, 64)
    assert predictor.classes[:2] == ("wall", "building")
    with pytest.raises(UserError, match="are the weights of a backbone, which predicts nothing"):
        Predictor(ENCODER)


def test_a_cut_connection_ends_with_the_same_bytes(server):
    server.cuts = [100_000, 200_000, 300_000]
    obtain(WHOLE)
    cut = stored(WHOLE).read_bytes()
    stored(WHOLE).unlink()
    obtain(WHOLE)
    assert stored(WHOLE).read_bytes() == cut
    assert [part is None for _, part in server.requests] == [True, False, False, False, True]


def test_wrong_bytes_are_refused_before_they_are_read(server):
    server.files[f"/{find(WHOLE).file}"] = b"\x80\x04cos\nsystem\n"
    with pytest.raises(UserError, match="what the server sent has sha256"):
        obtain(WHOLE)
    assert not stored(WHOLE).exists()


def test_offline_the_line_names_the_address_the_place_and_how_to_go_on(server, monkeypatch):
    monkeypatch.setenv("DENSEUP_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        recipe().fetch_weights()
    message = str(caught.value)
    assert f"http://127.0.0.1:9/{ENCODER}.bin: cannot be fetched" in message
    place = cache_folder() / "downloads" / f"{ENCODER}.bin"
    assert f"store it as {place}, and run the same command again" in message
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(server.files[f"/{ENCODER}.bin"])
    recipe().fetch_weights()
    assert stored(ENCODER).exists()


def test_a_disk_that_is_full_after_the_download_is_one_line_and_the_download_is_kept(server):
    original = cache_folder() / "downloads" / find(WHOLE).file
    original.parent.mkdir(parents=True)
    original.write_bytes(server.files[f"/{original.name}"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot be written \(.*; free space or .* DENSEUP_CACHE, and run .* again"
        ):
            obtain(WHOLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    obtain(WHOLE)
    assert server.requests == []


def test_what_nobody_offers_is_fetched_by_hand(server, monkeypatch):
    monkeypatch.delenv("DENSEUP_MIRROR")
    with pytest.raises(UserError, match=r"fetch it by hand, store it as .*depthformer_swin_t_nyu.pth"):
        obtain("depthformer_swin_t_nyu")


def test_the_hub_has_a_mirror(monkeypatch):
    monkeypatch.delenv("DENSEUP_MIRROR")
    assert find(ENCODER).address.startswith("https://huggingface.co/nvidia/mit-b0/resolve/80983a41")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    assert find(ENCODER).address == (
        "https://hub.example/nvidia/mit-b0/resolve/80983a413c30d36a39c20203974ae7807835e2b4/pytorch_model.bin"
    )


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["tools.weights", *words])
    command.main()


def test_the_command_lists_fetches_and_verifies(server, monkeypatch, capsys):
    call(monkeypatch, "fetch", WHOLE)
    call(monkeypatch, "fetch", "--all-for", str(ROOT / CFG), *SIZE)
    call(monkeypatch)
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.endswith("in the cache")}
    assert listed.keys() == {WHOLE, ENCODER}
    assert "mIoU 37.4" in listed[WHOLE]
    call(monkeypatch, "verify")
    assert check(WHOLE) is None
    content = bytearray(stored(WHOLE).read_bytes())
    content[-1] ^= 1
    stored(WHOLE).write_bytes(content)
    with pytest.raises(UserError, match=f"remove it, and run python -m tools.weights fetch {WHOLE}"):
        call(monkeypatch, "verify")


def test_without_a_published_digest_the_first_file_that_came_counts(server, monkeypatch, capsys):
    monkeypatch.setitem(entries(), ENCODER, find(ENCODER).model_copy(update={"digest": None, "size": None}))
    obtain(ENCODER)
    first = json.loads(stored(ENCODER).with_suffix(".json").read_text())
    genuine = server.files[f"/{ENCODER}.bin"]
    assert first["original_sha256"] == hashlib.sha256(genuine).hexdigest()
    call(monkeypatch, "verify")
    assert "sound, if the first file that came" in capsys.readouterr().out
    stored(ENCODER).unlink()
    server.files[f"/{ENCODER}.bin"] = genuine + b"!"
    expected = rf"where {first['original_sha256'][:16]}\.\. came on .* remove .*{ENCODER}\.json\)"
    with pytest.raises(UserError, match=expected):
        obtain(ENCODER)
    server.files[f"/{ENCODER}.bin"] = genuine
    obtain(ENCODER)
    assert check(ENCODER) is None


def test_a_digest_that_becomes_known_later_is_compared_too(server, monkeypatch):
    obtain(ENCODER)
    monkeypatch.setitem(entries(), ENCODER, find(ENCODER).model_copy(update={"digest": "sha256:0123456789"}))
    assert "was made of a file with SHA-256" in check(ENCODER)


def test_others_may_read_what_is_in_the_cache(server):
    obtain(ENCODER)
    assert stored(ENCODER).stat().st_mode == stored(ENCODER).with_suffix(".json").stat().st_mode


def test_processes_fetch_and_convert_once(server, capfd):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=obtain, args=(WHOLE,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(server.requests) == 1
    assert capfd.readouterr().out.count("Licence: ") == 1


@pytest.mark.parametrize("name", list(entries()))
def test_an_entry_is_complete(name):
    entry = entries()[name]
    assert entry.converter in SOURCES
    assert entry.hub or entry.url or entry.package or name == "depthformer_swin_t_nyu"
    assert (entry.cfg is None) == name.split("_")[-1].startswith("imagenet")
    if entry.cfg:
        experiment = load_experiment(ROOT / entry.cfg, entry.settings)
        metrics = {name for metric in experiment.build_metrics() for name in metric.names}
        assert entry.scores.keys() <= metrics
        assert experiment.model.backbone.published is not None


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_starts_from_weights_of_the_index(path):
    backbone = load_experiment(path).model.backbone
    assert backbone.weights == IMAGENET
    assert backbone.published.by_timm or backbone.published.name in entries()
