import json
import re
import sys
from pathlib import Path

import pytest
import torch
from reference_segformer import State, hub_state, segformer
from safetensors.torch import save_file

from errors import UserError
from models.backbones.resnet import ResNet
from models.segformer.model import SegFormer, SegFormerConfig
from published.converters.reading import read_published
from published.converters.sources import convert
from structures import DatasetInfo
from tests.published.converters.renaming import renamed
from tools.convert_weights.__main__ import main
from upsamplers import build_upsampler

CLASSES = 5
INFO = DatasetInfo("semantic", "test", ("",) * CLASSES)


def one_based(state: State, pattern: str) -> State:
    return {
        re.sub(pattern, lambda found: f"{found[1]}{int(found[2]) + 1}", name): value for name, value in state.items()
    }


def joined(state: State, parts: tuple[str, ...], whole: str) -> State:
    """`parts` of a name replaced by one tensor with their rows."""
    result = {name: value for name, value in state.items() if not any(part in name for part in parts)}
    for name in state:
        if parts[0] in name:
            result[name.replace(parts[0], whole)] = torch.cat([state[name.replace(parts[0], part)] for part in parts])
    return result


def official(state: State) -> State:
    state = joined(state, ("attention.self.key", "attention.self.value"), "attn.kv")
    state = renamed(
        state,
        (r"segformer\.encoder\.", "backbone."),
        (r"patch_embeddings\.(\d)\.layer_norm", r"patch_embed\1.norm"),
        (r"patch_embeddings\.(\d)", r"patch_embed\1"),
        (r"block\.(\d)\.", r"block\1."),
        (r"backbone\.layer_norm\.(\d)", r"backbone.norm\1"),
        (r"layer_norm_", "norm"),
        (r"attention\.self\.query", "attn.q"),
        (r"attention\.self\.sr", "attn.sr"),
        (r"attention\.self\.layer_norm", "attn.norm"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"mlp\.dense", "mlp.fc"),
        (r"linear_c\.(\d)", r"linear_c\1"),
        (r"linear_fuse\.", "linear_fuse.conv."),
        (r"batch_norm", "linear_fuse.bn"),
        (r"decode_head\.classifier", "decode_head.linear_pred"),
    )
    return one_based(state, r"(patch_embed|block|backbone\.norm|linear_c)(\d)")


def current(state: State) -> State:
    return renamed(
        state,
        (r"encoder\.patch_embeddings\.(\d)", r"stages.\1.patch_embeddings"),
        (r"encoder\.block\.(\d)\.(\d)", r"stages.\1.blocks.\2"),
        (r"encoder\.layer_norm\.(\d)", r"stages.\1.layer_norm"),
        (r"layer_norm_1", "layernorm_before"),
        (r"layer_norm_2", "layernorm_after"),
        (r"attention\.self\.(query|key|value)", lambda found: f"attention.{found[1][0]}_proj"),
        (r"attention\.self\.sr", "attention.sequence_reduction.sequence_reduction"),
        (r"attention\.self\.layer_norm", "attention.sequence_reduction.layer_norm"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"mlp\.dense", "mlp.fc"),
        (r"linear_c\.", "linear_projections."),
    )


def mmseg(state: State) -> State:
    state = {name: value for name, value in state.items() if "decode_head" not in name}
    state = renamed(state, (r"attention\.self\.(query|key|value)\.(weight|bias)", r"attention.self.\1_\2"))
    for kind in ("weight", "bias"):
        parts = tuple(f"attention.self.{part}_{kind}" for part in ("query", "key", "value"))
        state = joined(state, parts, f"attn.attn.in_proj_{kind}")
    state = renamed(
        state,
        (r"segformer\.encoder", "backbone"),
        (r"patch_embeddings\.(\d)\.proj", r"layers.\1.0.projection"),
        (r"patch_embeddings\.(\d)\.layer_norm", r"layers.\1.0.norm"),
        (r"backbone\.layer_norm\.(\d)", r"backbone.layers.\1.2"),
        (r"block\.(\d)\.(\d)", r"layers.\1.1.\2"),
        (r"layer_norm_", "norm"),
        (r"attention\.self\.sr", "attn.sr"),
        (r"attention\.self\.layer_norm", "attn.norm"),
        (r"attention\.output\.dense", "attn.attn.out_proj"),
        (r"mlp\.dense1", "ffn.layers.0"),
        (r"mlp\.dwconv\.dwconv", "ffn.layers.1"),
        (r"mlp\.dense2", "ffn.layers.4"),
    )
    linear = {name: value for name, value in state.items() if re.search(r"ffn\.layers\.[04]\.weight", name)}
    convolved = {name: value[:, :, None, None] for name, value in linear.items()}
    return state | convolved | {"decode_head.convs.0.conv.weight": torch.zeros(1)}


WHOLE = [("huggingface", dict), ("huggingface", current), ("segformer", official)]


def run(monkeypatch: pytest.MonkeyPatch, source: str, path: Path, out: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["convert_weights", "--from", source, str(path), str(out)])
    main()


def model_of(path: Path, **options: object) -> SegFormer:
    options = {"backbone": "mit_b0", "upsampler": "bilinear", "weights": path, **options}
    return SegFormerConfig.model_validate(options).build(INFO).eval()


@pytest.fixture(scope="module")
def hub() -> State:
    return hub_state(CLASSES)


@pytest.mark.parametrize(
    ("source", "published"), [("huggingface", dict), ("huggingface", current), ("segformer", official)]
)
def test_a_converted_model_gives_the_logits_of_an_independent_one(
    source: str, published: object, hub: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"decode_head.conv_seg.weight": torch.zeros(5, 128, 1, 1)} if source == "segformer" else {}
    torch.save({"state_dict": {**published(hub), **extra}, "meta": {"epoch": 1}}, tmp_path / "in.pth")
    run(monkeypatch, source, tmp_path / "in.pth", tmp_path / "out.pt")
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (content["format"], content["source"], content["kind"]) == ("denseup-weights", source, "segformer_mit_b0")
    images = torch.randn(2, 3, 64, 96)
    expected = segformer(hub, images)
    assert expected.std() > 0.1
    with torch.no_grad():
        logits = model_of(tmp_path / "out.pt").outputs(images)["logits"]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "published"),
    [("huggingface", dict), ("huggingface", current), ("segformer", official), ("mmseg", mmseg)],
)
def test_every_layout_of_a_backbone_gives_the_same_tensors(source: str, published: object, hub: State) -> None:
    encoder = {name: value for name, value in hub.items() if "decode_head" not in name}
    kind, tensors, *_ = convert(source, published(encoder), "test")
    _, expected, *_ = convert("huggingface", hub, "test")
    assert kind == "mit_b0"
    assert {f"backbone.{name}" for name in tensors} == {name for name in expected if name.startswith("backbone.")}
    for name, value in tensors.items():
        assert torch.equal(value, expected[f"backbone.{name}"]), name


def test_of_an_imagenet_file_the_classifier_is_dropped(hub: State) -> None:
    encoder = {name: value for name, value in official(hub).items() if name.startswith("backbone.")}
    bare = {name.removeprefix("backbone."): value for name, value in encoder.items()}
    kind, tensors, remark, *_ = convert("segformer", {**bare, "head.weight": torch.zeros(1000, 256)}, "test")
    assert kind == "mit_b0"
    assert not any("head" in name for name in tensors)
    assert "dropped 1" in remark


def test_mmseg_heads_are_left_out_and_the_remark_says_so(hub: State) -> None:
    assert "backbone only" in convert("mmseg", mmseg(hub), "test")[2]


@pytest.mark.parametrize("upsampler", ["carafe", "dysample", "dysample-s+", {"name": "fade", "gate": True}, "sapa"])
def test_published_upsamplers_come_along_and_are_recognised(upsampler: object, hub: State, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stages = [build_upsampler(upsampler, 256) for _ in range(6)]
    published = official(hub)
    for index, stage in enumerate(stages):
        published |= {f"decode_head.upsamplers.{index}.{name}": value for name, value in stage.state_dict().items()}
    _, tensors, remark, *_ = convert("segformer", published, "test")
    assert f"upsampler {json.dumps(upsampler)}" in remark
    torch.save({"model": tensors}, tmp_path / "out.pt")
    model = model_of(tmp_path / "out.pt", upsampler=upsampler)
    for index, stage in enumerate(stages):
        for name, value in stage.state_dict().items():
            assert torch.equal(model.state_dict()[f"head.upsamplers.{index}.{name}"], value)


def test_half_precision_and_process_prefixes_are_undone(hub: State, tmp_path: Path) -> None:
    torch.save({"model": {f"module.{name}": value.half() for name, value in hub.items()}}, tmp_path / "in.bin")
    state, _ = read_published(tmp_path / "in.bin")
    assert state.keys() == hub.keys()
    assert {value.dtype for value in state.values()} == {torch.float32}


def write_safetensors(path: Path, state: State) -> None:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in state.items():
        raw = value.contiguous().view(torch.uint8 if value.ndim else value.dtype).numpy().tobytes()
        kind = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_safetensors_are_read_and_truncated_ones_refused(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 2), "b": torch.randn(4).half(), "n": torch.tensor(7), "e": torch.zeros(0, 3)}
    path = tmp_path / "in.safetensors"
    write_safetensors(path, state)
    for name, value in read_published(path)[0].items():
        assert torch.equal(value, state[name].to(value.dtype))
        assert value.shape == state[name].shape
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="safetensors"):
        read_published(path)


def refusal(source: str, state: State) -> str:
    with pytest.raises(UserError) as caught:
        convert(source, state, "file.pth")
    return str(caught.value)


def test_what_does_not_belong_is_named(hub: State) -> None:
    assert "1 unknown tensors (decode_head.extra)" in refusal(
        "huggingface", {**hub, "decode_head.extra": torch.zeros(1)}
    )
    assert "file.pth: holds no MiT-B0 to B5 by the names of segformer" in refusal("segformer", hub)
    missing = {name: value for name, value in hub.items() if not name.endswith("block.3.1.mlp.dense2.bias")}
    assert "1 tensors missing (backbone.stages.3.blocks.1.mlp.contract.bias)" in refusal("huggingface", missing)
    headless = {name: value for name, value in hub.items() if not name.startswith("decode_head.classifier")}
    assert "incomplete head" in refusal("huggingface", headless)
    wrong = {**hub, "decode_head.upsamplers.0.x": torch.zeros(1)}
    assert "decode_head.upsamplers.0.x" in refusal("huggingface", wrong)


class Stranger:
    pass


def test_files_that_need_code_are_refused_and_the_class_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "meta": Stranger()}, tmp_path / "in.pth")
    with pytest.raises(UserError, match="Stranger"):
        read_published(tmp_path / "in.pth")


def test_the_published_file_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.pth"
    path.write_bytes(b"published")
    monkeypatch.setattr("sys.argv", ["convert", "--from", "segformer", str(path), str(tmp_path / "." / "in.pth")])
    with pytest.raises(UserError, match="is the file to convert"):
        main()
    assert path.read_bytes() == b"published"


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 4, b"PK\x03\x04" + bytes(100)])
def test_files_of_another_kind_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_published(tmp_path / "in.pth")


def test_safetensors_may_hold_integers(tmp_path):
    tensors = {"norm.weight": torch.arange(3.0), "norm.num_batches_tracked": torch.tensor(7)}
    save_file(tensors, tmp_path / "file.safetensors")
    state, _ = read_published(tmp_path / "file.safetensors")
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


# All prefixes of one source and one prefix of all sources; the other pairs are slow.
@pytest.mark.parametrize(
    ("source", "published", "prefix"),
    [
        pytest.param(*source, prefix, marks=() if index == 0 or source[0] == "segformer" else pytest.mark.slow)
        for index, prefix in enumerate(
            ["ema_model.module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."]
        )
        for source in [("huggingface", dict), ("huggingface", current), ("segformer", official), ("mmseg", mmseg)]
    ],
)
def test_prefixes_of_training_code_come_off(
    source: str, published: object, prefix: str, hub: State, tmp_path: Path
) -> None:
    state = published(hub)
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, tmp_path / "in.pth")
    found, _ = read_published(tmp_path / "in.pth")
    assert found.keys() == state.keys()
    assert convert(source, found, "test").model.keys() == convert(source, state, "test").model.keys()


def test_of_a_model_and_its_average_the_average_is_taken_and_named(
    hub: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    average = {name: value + 1 if value.is_floating_point() else value for name, value in hub.items()}
    torch.save({"state_dict": hub, "model_ema": average}, tmp_path / "in.pth")
    run(monkeypatch, "huggingface", tmp_path / "in.pth", tmp_path / "out.pt")
    assert "taken: the average of the weights (model_ema), not state_dict" in capsys.readouterr().out
    expected = convert("huggingface", average, "test").model
    model = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    assert all(torch.equal(model[name], expected[name]) for name in expected)


@pytest.mark.parametrize("outer", ["backbone.", "encoder."])
def test_a_backbone_under_another_name_is_taken_where_no_network_has_such_names(outer: str) -> None:
    with torch.device("meta"):
        state = dict(ResNet("resnet50", frozen=0).state_dict())
    wrapped = {outer + name: torch.zeros(value.shape) for name, value in state.items()}
    found = convert("torchvision", {**wrapped, "fc.weight": torch.zeros(1)}, "test")
    assert found.kind == "resnet50"
    assert found.model.keys() == state.keys()
