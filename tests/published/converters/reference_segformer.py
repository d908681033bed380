"""A second SegFormer, written from the description of the network in plain functions over the names of the hub's files.

Only as fast and as general as the tests need. `hub_state` draws weights under these names.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
CHANNELS, HEADS, REDUCTIONS, DEPTH, EMBEDDING = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1), 2, 256  # B0


# Channels and blocks of the stages, channels of the head.
SIZES = {
    "b0": (CHANNELS, (DEPTH,) * 4, EMBEDDING),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}


def hub_state(num_classes: int, size: str = "b0") -> State:
    """Random weights of a SegFormer as on the hub."""
    generator, state = torch.Generator().manual_seed(0), {}

    def draw(name: str, *shape: int, bias: bool = True, centre: float = 0.0) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        spread = 0.1 if len(shape) == 1 else fan_in**-0.5
        state[f"{name}.weight"] = centre + spread * torch.randn(shape, generator=generator)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    encoder, before = "segformer.encoder", 3
    widths, depths, embedding = SIZES[size]
    for stage, (channels, reduction) in enumerate(zip(widths, REDUCTIONS, strict=True)):
        kernel = 7 if stage == 0 else 3
        draw(f"{encoder}.patch_embeddings.{stage}.proj", channels, before, kernel, kernel)
        draw(f"{encoder}.patch_embeddings.{stage}.layer_norm", channels, centre=1)
        for index in range(depths[stage]):
            block = f"{encoder}.block.{stage}.{index}"
            draw(f"{block}.layer_norm_1", channels, centre=1)
            for part in ("query", "key", "value"):
                draw(f"{block}.attention.self.{part}", channels, channels)
            if reduction > 1:
                draw(f"{block}.attention.self.sr", channels, channels, reduction, reduction)
                draw(f"{block}.attention.self.layer_norm", channels, centre=1)
            draw(f"{block}.attention.output.dense", channels, channels)
            draw(f"{block}.layer_norm_2", channels, centre=1)
            draw(f"{block}.mlp.dense1", 4 * channels, channels)
            draw(f"{block}.mlp.dwconv.dwconv", 4 * channels, 1, 3, 3)
            draw(f"{block}.mlp.dense2", channels, 4 * channels)
        draw(f"{encoder}.layer_norm.{stage}", channels, centre=1)
        draw(f"decode_head.linear_c.{stage}.proj", embedding, channels)
        before = channels
    draw("decode_head.linear_fuse", embedding, 4 * embedding, 1, 1, bias=False)
    draw("decode_head.batch_norm", embedding, centre=1)
    state["decode_head.batch_norm.running_mean"] = torch.randn(embedding, generator=generator)
    state["decode_head.batch_norm.running_var"] = 0.5 + torch.rand(embedding, generator=generator)
    state["decode_head.batch_norm.num_batches_tracked"] = torch.tensor(7)
    draw("decode_head.classifier", num_classes, embedding, 1, 1)
    return state


def segformer(state: State, images: Tensor) -> Tensor:
    """Logits [B, K, H/4, W/4] of images [B, 3, H, W], in evaluation."""
    levels, x = [], images
    for stage in range(4):
        x = _stage(state, stage, x)
        levels.append(x)
    size, embedded = levels[0].shape[2:], []
    for index, level in enumerate(levels):
        tokens = _linear(state, f"decode_head.linear_c.{index}.proj", level.flatten(2).mT)
        planes = tokens.mT.unflatten(2, level.shape[2:])
        embedded.insert(0, F.interpolate(planes, size=size, mode="bilinear", align_corners=False))
    x = F.conv2d(torch.cat(embedded, dim=1), state["decode_head.linear_fuse.weight"])
    norm = {name: state[f"decode_head.batch_norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
    x = F.batch_norm(x, **norm).relu()
    return F.conv2d(x, state["decode_head.classifier.weight"], state["decode_head.classifier.bias"])


def _stage(state: State, stage: int, x: Tensor) -> Tensor:
    encoder = "segformer.encoder"
    name = f"{encoder}.patch_embeddings.{stage}"
    stride, padding = (4, 3) if stage == 0 else (2, 1)
    x = F.conv2d(x, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"], stride, padding)
    size = x.shape[2:]
    tokens = _norm(state, f"{name}.layer_norm", x.flatten(2).mT, 1e-5)
    for index in range(DEPTH):
        block = f"{encoder}.block.{stage}.{index}"
        tokens = tokens + _attention(state, block, stage, _norm(state, f"{block}.layer_norm_1", tokens, 1e-6), size)
        hidden = _linear(state, f"{block}.mlp.dense1", _norm(state, f"{block}.layer_norm_2", tokens, 1e-6))
        depthwise, planes = f"{block}.mlp.dwconv.dwconv", hidden.mT.unflatten(2, size)
        planes = F.conv2d(
            planes, state[f"{depthwise}.weight"], state[f"{depthwise}.bias"], padding=1, groups=planes.shape[1]
        )
        tokens = tokens + _linear(state, f"{block}.mlp.dense2", F.gelu(planes.flatten(2).mT))
    return _norm(state, f"{encoder}.layer_norm.{stage}", tokens, 1e-6).mT.unflatten(2, size)


def _attention(state: State, block: str, stage: int, tokens: Tensor, size: torch.Size) -> Tensor:
    name, source = f"{block}.attention.self", tokens
    if REDUCTIONS[stage] > 1:
        reduced = F.conv2d(
            tokens.mT.unflatten(2, size), state[f"{name}.sr.weight"], state[f"{name}.sr.bias"], REDUCTIONS[stage]
        )
        source = _norm(state, f"{name}.layer_norm", reduced.flatten(2).mT, 1e-5)
    query, key, value = (
        _linear(state, f"{name}.{part}", x).unflatten(2, (HEADS[stage], -1)).transpose(1, 2)
        for part, x in (("query", tokens), ("key", source), ("value", source))
    )
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
    return _linear(state, f"{block}.attention.output.dense", (weights @ value).transpose(1, 2).flatten(2))


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].mT + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)
