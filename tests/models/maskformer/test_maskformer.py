"""MaskFormer: counts, decoders, matching, losses and inference against literal forms, every upsampler."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from models import ModelConfig
from models.layers.resize import argmax_from_masks, resized_argmax
from models.maskformer import losses as masks
from models.maskformer.losses import QueryLogits, Segments, match, match_costs
from models.maskformer.model import MaskFormer, MaskFormerConfig
from models.maskformer.partition import PartitionConfig, partition
from models.maskformer.pixel_decoder import PixelDecoder
from models.maskformer.transformer import TransformerDecoder, TransformerEncoder
from structures import IGNORE, Batch, DatasetInfo, Instances, Target
from tests.conftest import UPSAMPLERS
from upsamplers import NearestConfig

INFO = DatasetInfo("semantic", "any", tuple("abcde"))
ROOMS = DatasetInfo("panoptic", "any", tuple("abcde"), things=(True, False, True, False, False))
COCO = DatasetInfo("panoptic", "coco_panoptic", tuple(map(str, range(133))), things=(True,) * 80 + (False,) * 53)
ADE = DatasetInfo("semantic", "ade20k", tuple(map(str, range(150))))


def build(upsampler: object = "nearest", info: DatasetInfo = INFO, **options: object) -> MaskFormer:
    torch.manual_seed(0)
    backbone = {"name": "mit_b0", "channels": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "drop_path": 0}
    small = {"backbone": backbone, "channels": 32, "queries": 7, "layers": 2, "hidden": 32, "dropout": 0}
    config = {"name": "maskformer", "upsampler": upsampler, **small, **options}
    return TypeAdapter(ModelConfig).validate_python(config).build(info)


def batch(maps: list[torch.Tensor], sizes: list[tuple[int, int]] | None = None) -> Batch:
    height, width = maps[0].shape
    inside = sizes or [(height, width)] * len(maps)
    targets = [
        Target(str(index), size, semantic=map) for index, (map, size) in enumerate(zip(maps, inside, strict=True))
    ]
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(len(maps), 3, height, width, generator=generator), inside, targets)


def segments_of(semantic: torch.Tensor) -> Segments:
    return masks.extract_segments(
        Target("0", semantic.shape, semantic=semantic), torch.zeros(5, dtype=torch.bool), tuple(semantic.shape)
    )


def halves(left: int, right: int, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    semantic = torch.full(size, left, dtype=torch.int16)
    semantic[:, size[1] // 2 :] = right
    return semantic


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "total", "pixel_decoder", "rest"),
    [("swin_b", 101_829_391, 4_951_808, 9_997_207), ("swin_l", 211_575_627, 6_246_144, 10_128_279)],
)
def test_published_counts(backbone: str, total: int, pixel_decoder: int, rest: int) -> None:
    with torch.device("meta"):
        model = MaskFormerConfig.model_validate({"backbone": backbone, "upsampler": "nearest"}).build(ADE)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert sum(parameter.numel() for parameter in model.pixel_decoder.parameters()) == pixel_decoder
    parts = (model.transformer, model.classifier, model.mask_embedding)
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == rest


def test_the_panoptic_model_has_the_published_45_million() -> None:
    options = {"backbone": "resnet50", "upsampler": "nearest", "encoder_layers": 6}
    with torch.device("meta"):
        model = MaskFormerConfig.model_validate(options).build(COCO)
    assert sum(parameter.numel() for parameter in model.parameters()) == 45_065_158
    # A layer of 256 channels and 2,048 hidden ones: attention, two linear layers, two norms; and the projection.
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 6 * 1_315_072 + 2048 * 256 + 256


# Of the three stages: all parameters, and weights of convolutions alone. DySample-S+ has 2.8 % of CARAFE's (section 1).
@pytest.mark.parametrize(
    ("upsampler", "everything", "weights"),
    [("nearest", 0, 0), ("carafe", 222_444, 221_952), ("dysample-s+", 6_192, 6_144)],
)
def test_increments(upsampler: str, everything: int, weights: int) -> None:
    with torch.device("meta"):
        model = MaskFormerConfig.model_validate({"backbone": "swin_b", "upsampler": upsampler}).build(ADE)
    stages = model.pixel_decoder.upsamplers
    assert len(stages) == 3
    assert sum(parameter.numel() for parameter in stages.parameters()) == everything
    assert sum(stage.weight_count() for stage in stages) == weights


# --- parts -----------------------------------------------------------------------------------------------------------


def test_the_pixel_decoder_upsamples_what_its_convolutions_gave() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder([8, 16, 24, 32], 32, NearestConfig())
    levels = [torch.randn(2, width, 32 >> index, 48 >> index) for index, width in enumerate((8, 16, 24, 32))]

    def unit(x: torch.Tensor, module: torch.nn.Module, padding: int, relu: bool) -> torch.Tensor:
        x = F.group_norm(F.conv2d(x, module.conv.weight, padding=padding), 32, module.norm.weight, module.norm.bias)
        return F.relu(x) if relu else x

    y = unit(levels[3], decoder.enter, 1, relu=True)
    for index in (2, 1, 0):
        up = F.interpolate(y, scale_factor=2, mode="nearest")
        y = unit(unit(levels[index], decoder.laterals[index], 0, relu=False) + up, decoder.outputs[index], 1, relu=True)
    expected = F.conv2d(y, decoder.mask_features.weight, decoder.mask_features.bias, padding=1)
    torch.testing.assert_close(decoder(levels), expected)


def test_the_transformer_is_pytorchs_decoder_with_positions_where_detr_adds_them() -> None:
    torch.manual_seed(0)
    ours = TransformerDecoder(24, 32, queries=5, layers=2, heads=4, hidden=48, dropout=0.0)
    level = torch.randn(2, 24, 3, 4)
    results = ours(level)
    assert [tuple(result.shape) for result in results] == [(2, 5, 32)] * 2
    # A layer of PyTorch's has no positions; without queries' and keys' it must give the same.
    layer = torch.nn.TransformerDecoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    own = ours.layers[0]
    names = {"among": "self_attn", "across": "multihead_attn", "expand": "linear1", "contract": "linear2"}
    names |= {f"norms.{index}": f"norm{index + 1}" for index in range(3)}
    state = {}
    for name, value in own.state_dict().items():
        ours_name = next(begin for begin in names if name.startswith(f"{begin}."))
        state[names[ours_name] + name.removeprefix(ours_name)] = value
    layer.load_state_dict(state)
    x, memory = torch.randn(2, 5, 32), torch.randn(2, 12, 32)
    torch.testing.assert_close(own(x, torch.zeros_like(x), memory, memory), layer(x, memory))


def test_the_encoder_is_pytorchs_with_positions_where_detr_adds_them() -> None:
    torch.manual_seed(0)
    ours = TransformerEncoder(24, 32, layers=2, heads=4, hidden=48, dropout=0.0)
    assert ours(torch.randn(2, 24, 3, 4)).shape == (2, 32, 3, 4)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    own = ours.layers[0]
    names = {"among": "self_attn", "expand": "linear1", "contract": "linear2", "norms.0": "norm1", "norms.1": "norm2"}
    state = {}
    for name, value in own.state_dict().items():
        begin = next(begin for begin in names if name.startswith(f"{begin}."))
        state[names[begin] + name.removeprefix(begin)] = value
    layer.load_state_dict(state)
    x, position = torch.randn(2, 12, 32), torch.randn(12, 32)
    torch.testing.assert_close(own(x, torch.zeros_like(position)), layer(x))
    # With positions: they tell where to look, but are not looked at.
    attended = layer.self_attn(x + position, x + position, x, need_weights=False)[0]
    y = layer.norm1(x + attended)
    torch.testing.assert_close(own(x, position), layer.norm2(y + layer.linear2(F.relu(layer.linear1(y)))))


def test_things_are_segments_one_by_one_and_crowds_are_none() -> None:
    semantic = halves(0, 3)
    semantic[:10] = 2  # a crowd
    objects = torch.zeros(3, 64, 96, dtype=torch.bool)
    objects[0, 10:30, :48], objects[1, 30:, :48], objects[2, :10] = True, True, True
    instances = Instances(
        torch.zeros(3, 4), torch.tensor([0, 0, 2]), masks=objects, crowd=torch.tensor([False, False, True])
    )
    target = Target("0", (64, 96), semantic=semantic, instances=instances)
    labels, found, _ = masks.extract_segments(target, torch.tensor(ROOMS.things), (64, 96))
    assert labels.tolist() == [0, 0, 3]
    assert torch.equal(found[:2], objects[:2])
    assert torch.equal(found[2], semantic == 3)


def test_segments_are_the_classes_that_occur() -> None:
    semantic = halves(3, 1)
    semantic[:10] = IGNORE
    labels, found, _ = segments_of(semantic)
    assert labels.tolist() == [1, 3]
    assert torch.equal(found[0], semantic == 1)
    assert not found[:, :10].any()
    assert segments_of(torch.full((4, 4), IGNORE)).masks.shape == (0, 4, 4)


# --- matching and losses, pixel by pixel -----------------------------------------------------------------------------


def focal(logit: float, true: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if true else -0.75 * p**2 * math.log(1 - p)


def literal_costs(classes: torch.Tensor, logits: torch.Tensor, truth: Segments) -> list[list[float]]:
    small = F.interpolate(truth.masks[None].float(), logits.shape[-2:], mode="nearest")[0]
    rows = []
    for query, mask in zip(classes.softmax(dim=1), logits, strict=True):
        row = []
        for label, true in zip(truth.labels.tolist(), small, strict=True):
            pairs = list(zip(mask.flatten().tolist(), true.flatten().tolist(), strict=True))
            p = [1 / (1 + math.exp(-logit)) for logit, _ in pairs]
            overlap = sum(value * t for value, (_, t) in zip(p, pairs, strict=True))
            dice = 1 - (2 * overlap + 1) / (sum(p) + sum(t for _, t in pairs) + 1)
            row.append(20 * sum(focal(*pair) for pair in pairs) / len(pairs) + dice - query[label].item())
        rows.append(row)
    return rows


def example() -> tuple[torch.Tensor, torch.Tensor, Segments]:
    torch.manual_seed(3)
    semantic = torch.randint(0, 3, (8, 12)).short()
    return torch.randn(4, 6), torch.randn(4, 4, 6), segments_of(semantic)


def layer(classes: torch.Tensor, logits: torch.Tensor) -> QueryLogits:
    """The predictions for a batch of one image."""
    return QueryLogits(classes[None], logits[None])


def test_costs_of_matching() -> None:
    classes, logits, truth = example()
    expected = torch.tensor(literal_costs(classes, logits, truth))
    torch.testing.assert_close(match_costs(classes, logits, truth), expected, rtol=1e-4, atol=1e-5)


def test_no_other_assignment_costs_less() -> None:
    classes, logits, truth = example()
    costs = match_costs(classes, logits, truth)
    rows, columns = match([layer(classes, logits)], [truth])[0][0]
    least = min(
        sum(costs[query, column].item() for column, query in enumerate(chosen))
        for chosen in itertools.permutations(range(4), 3)
    )
    assert costs[rows, columns].sum().item() == pytest.approx(least, rel=1e-5)
    assert sorted(columns.tolist()) == [0, 1, 2]


def test_losses_of_one_layer() -> None:
    classes, logits, truth = example()
    found = masks.losses([layer(classes, logits)], [truth])
    rows, columns = match([layer(classes, logits)], [truth])[0][0]
    owner = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    entropy = weight = mask = dice = 0.0
    for query, scores in enumerate(classes.log_softmax(dim=1)):
        label = int(truth.labels[owner[query]]) if query in owner else 5
        share = 1.0 if query in owner else 0.1
        entropy, weight = entropy - share * scores[label].item(), weight + share
        if query not in owner:
            continue
        large = F.interpolate(logits[None, None, query], (8, 12), mode="bilinear")[0, 0].flatten().tolist()
        true = truth.masks[owner[query]].flatten().float().tolist()
        mask += sum(map(focal, large, true)) / 96
        p = [1 / (1 + math.exp(-logit)) for logit in large]
        dice += 1 - (2 * sum(a * b for a, b in zip(p, true, strict=True)) + 1) / (sum(p) + sum(true) + 1)
    assert found["loss_class"].item() == pytest.approx(entropy / weight, rel=1e-4)
    assert found["loss_mask"].item() == pytest.approx(20 * mask / 3, rel=1e-4)
    assert found["loss_dice"].item() == pytest.approx(dice / 3, rel=1e-4)


def test_more_classes_than_queries_leave_some_unmatched() -> None:
    truth = segments_of(torch.arange(5).repeat_interleave(20).view(10, 10).short())
    classes, logits = torch.randn(2, 6), torch.randn(2, 5, 5)
    assert len(match([layer(classes, logits)], [truth])[0][0].queries) == 2
    found = masks.losses([layer(classes, logits)], [truth])
    assert all(torch.isfinite(loss) for loss in found.values())


@pytest.mark.parametrize("upsampler", ["nearest", "carafe", "fade"])
def test_images_need_not_be_padded(upsampler: str) -> None:
    model = build(upsampler, size_divisor=1)
    assert model.size_divisor == 1
    data = batch([halves(1, 2, (50, 75))])
    torch.stack(list(model(data).values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.eval().predict(data)[0].semantic.shape == (50, 75)


def test_the_device_is_asked_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    copies, original = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor) or original(tensor))
    build(layers=4)(batch([halves(1, 2), halves(3, 4)]))
    assert len(copies) == 1


def test_a_network_that_has_diverged_has_a_loss_that_is_not_finite() -> None:
    classes, logits, truth = example()
    logits[0] = float("nan")
    found = masks.losses([layer(classes, logits)], [truth])
    assert not torch.isfinite(torch.stack(list(found.values())).sum())


# --- semantic inference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 90), (61, 37), (200, 150)])
def test_classes_by_votes_are_those_of_the_whole_maps(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.layers.resize._CHUNK_ELEMENTS", 20_000)  # a few rows at a time
    torch.manual_seed(0)
    classes, logits = torch.randn(6, 6).softmax(dim=1)[:, :-1], 4 * torch.randn(6, 16, 24)
    large = F.interpolate(logits[None], (64, 96), mode="bilinear").sigmoid()
    scores = torch.einsum("qk,bqhw->bkhw", classes, large)[:, :, :60, :90]
    if size != (60, 90):
        scores = F.interpolate(scores, size, mode="bilinear")
    found = argmax_from_masks(classes, logits, (64, 96), (60, 90), size)
    assert found.dtype == torch.int16
    assert (found == scores[0].argmax(dim=0)).float().mean() > 0.999  # ties of rounding
    assert resized_argmax(scores[0], size, size, size).shape == size


# --- panoptic inference ----------------------------------------------------------------------------------------------


def literal_partition(
    classes: torch.Tensor, logits: torch.Tensor, inside: tuple[int, int], size: tuple[int, int], padded: tuple[int, int]
) -> tuple[torch.Tensor, dict[int, int]]:
    """All maps at once, as the paper says it."""
    large = F.interpolate(logits[None], padded, mode="bilinear")[:, :, : inside[0], : inside[1]]
    p = F.interpolate(large, size, mode="bilinear")[0].sigmoid()
    scores, labels = classes.softmax(dim=1).max(dim=1)
    kept = [query for query in range(len(p)) if labels[query] < 5 and scores[query] > 0.5]
    owner = torch.stack([scores[query] * p[query] for query in kept]).argmax(dim=0)
    ids, names, stuff = torch.zeros(size, dtype=torch.int32), {}, {}
    for place, query in enumerate(kept):
        area, label = (owner == place).sum().item(), labels[query].item()
        if area == 0 or area / (p[query] >= 0.5).sum().item() < 0.3:
            continue
        if not ROOMS.things[label] and label in stuff:
            ids[owner == place] = stuff[label]
            continue
        names[len(names) + 1] = label
        stuff[label] = len(names)
        ids[owner == place] = len(names)
    return ids, names


@pytest.mark.parametrize("seed", range(4))
def test_the_partition_is_that_of_the_whole_maps(seed: int) -> None:
    torch.manual_seed(seed)
    classes = 4 * torch.randn(12, 6)
    logits = F.interpolate(3 * torch.randn(1, 12, 4, 6) - 2, (16, 24), mode="bilinear")[0]
    sizes = (60, 90), (75, 101), (64, 96)
    config = PartitionConfig(min_score=0.5, min_visible=0.3)
    found, labels = partition(classes, logits, sizes[2], *sizes[:2], torch.tensor(ROOMS.things), config)
    ids, names = literal_partition(classes, logits, *sizes)
    assert dict(enumerate(labels.tolist(), 1)) == names
    assert found.dtype == torch.int32
    assert torch.equal(found, ids)
    assert len(names) > 2


def test_no_mask_is_no_segment() -> None:
    sizes = [(64, 96)] * 3
    masks, things = torch.zeros(3, 16, 24), torch.tensor(ROOMS.things)
    ids, labels = partition(torch.zeros(3, 6), masks, *sizes, things, PartitionConfig())
    assert len(labels) == 0
    assert not ids.any()


def test_hidden_masks_are_left_out_and_stuff_is_merged() -> None:
    classes = torch.full((4, 6), -20.0)
    classes[[0, 1, 2, 3], [1, 1, 0, 2]] = torch.tensor([20.0, 20.0, 20.0, 4.0])
    logits = torch.full((4, 16, 24), -9.0)
    logits[0, :, :8] = logits[1, :, 8:16] = 9.0  # two of one class of stuff
    logits[2, :, 16:] = logits[3, :8, 18:] = 9.0  # the second of the things is hidden by the first
    sizes = [(64, 96)] * 3
    ids, labels = partition(classes, logits, *sizes, torch.tensor(ROOMS.things), PartitionConfig())
    assert labels.tolist() == [1, 0]
    assert (ids[:, :60] == 1).all()
    assert (ids[:, 68:] == 2).all()


def test_it_learns_two_things_of_one_class_by_heart() -> None:
    model = build("dysample-s+", ROOMS, encoder_layers=1, partition={"min_score": 0.5})
    data = batch([halves(0, 3)])
    data.targets[0].semantic[:, :48] = 0
    objects = torch.zeros(2, 64, 96, dtype=torch.bool)
    objects[0, :32, :48], objects[1, 32:, :48] = True, True
    data.targets[0].instances = Instances(torch.zeros(2, 4), torch.tensor([0, 0]), masks=objects)
    data.images[:, 0, :, 48:] += 3
    data.images[:, 1, 32:] += 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(model(data).values())).sum().backward()
        optimizer.step()
    found = model.eval().predict(data)[0].panoptic
    assert sorted(found.labels.values()) == [0, 0, 3]
    for area in (objects[0], objects[1], data.targets[0].semantic == 3):
        assert (found.ids[area] == found.ids[area].mode().values).float().mean() > 0.9


# --- the whole model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_every_upsampler(upsampler: str) -> None:
    model = build(upsampler)
    data = batch([halves(0, 2), halves(1, 4)], sizes=[(61, 90), (64, 96)])
    found = model(data)
    assert found.keys() == {"loss_class", "loss_mask", "loss_dice"}
    torch.stack(list(found.values())).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    data.targets[0].size = (75, 101)
    predictions = model.eval().predict(data)
    assert [tuple(each.semantic.shape) for each in predictions] == [(75, 101), (64, 96)]


@pytest.mark.parametrize("label", [IGNORE, 3])
def test_images_with_one_class_or_none(label: int) -> None:
    model = build()
    found = model(batch([halves(label, label)]))
    torch.stack(list(found.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in found.values())
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_every_layer_learns_or_the_last_alone() -> None:
    data = batch([halves(0, 2)])
    model = build()
    every = model(data)
    model.deep_supervision = False
    last = model(data)
    assert all(every[name] > 1.2 * last[name] for name in every)


def test_it_learns_a_picture_by_heart() -> None:
    model = build("dysample-s+")
    data = batch([halves(1, 4)])
    data.images[:, 0, :, 48:] += 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        torch.stack(list(model(data).values())).sum().backward()
        optimizer.step()
    assert (model.eval().predict(data)[0].semantic == data.targets[0].semantic).float().mean() > 0.95


def test_other_data_and_sizes_are_refused() -> None:
    config = MaskFormerConfig.model_validate({"backbone": "mit_b0", "upsampler": "nearest"})
    with pytest.raises(ValueError, match="use ade20k or coco_panoptic"):
        config.build(DatasetInfo("depth", "nyu", max_depth=10))
    with pytest.raises(ValueError, match="channels 48 do not divide into 32 groups"):
        build(channels=48)
    with pytest.raises(ValueError, match="do not divide into 5 heads"):
        build(heads=5)
