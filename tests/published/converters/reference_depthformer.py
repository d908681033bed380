"""A second DepthFormer (Swin-T), written from its description in plain functions over the names of published files.

Only as fast and as general as the tests need: windows are a mask over all pairs of pixels, and what deformable
attention reads is a product with a matrix over all pixels. `toolbox_state` draws weights under these names.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
DEPTHS, CHANNELS, WINDOW, WIDTH, POINTS, HEADS = (2, 2, 6, 2), (96, 192, 384, 768), 7, 256, 8, 8
LEVELS = (64, *CHANNELS)


def toolbox_state() -> State:
    """Random weights of the whole network."""
    generator, state = torch.Generator().manual_seed(0), {}

    def draw(name: str, *shape: int, bias: bool = True, centre: float = 0.0, spread: float | None = None) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        spread = spread or (0.1 if len(shape) == 1 else fan_in**-0.5)
        state[f"{name}.weight"] = centre + spread * torch.randn(shape, generator=generator)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    def draw_unit(name: str, channels: int, before: int, kernel: int = 1) -> None:
        draw(f"{name}.conv", channels, before, kernel, kernel, bias=False)
        draw_norm(f"{name}.bn", channels)

    def draw_norm(name: str, channels: int) -> None:
        draw(name, channels, centre=1)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    draw("backbone.patch_embed.projection", 96, 3, 4, 4)
    draw("backbone.patch_embed.norm", 96, centre=1)
    for stage, width in enumerate(CHANNELS):
        for block in range(DEPTHS[stage]):
            name = f"backbone.stages.{stage}.blocks.{block}"
            draw(f"{name}.norm1", width, centre=1)
            draw(f"{name}.attn.w_msa.qkv", 3 * width, width)
            draw(f"{name}.attn.w_msa.proj", width, width)
            table = torch.randn((2 * WINDOW - 1) ** 2, width // 32, generator=generator)
            state[f"{name}.attn.w_msa.relative_position_bias_table"] = table
            state[f"{name}.attn.w_msa.relative_position_index"] = torch.zeros(WINDOW**2, WINDOW**2, dtype=torch.int64)
            draw(f"{name}.norm2", width, centre=1)
            draw(f"{name}.ffn.layers.0.0", 4 * width, width)
            draw(f"{name}.ffn.layers.1", width, 4 * width)
        if stage < 3:
            draw(f"backbone.stages.{stage}.downsample.norm", 4 * width, centre=1)
            draw(f"backbone.stages.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
        draw(f"backbone.norm{stage}", width, centre=1)
    draw("backbone.conv1", 64, 3, 7, 7, bias=False)
    draw_norm("backbone.bn1", 64)

    for level, width in enumerate(LEVELS):
        draw_unit(f"neck.lateral_convs.{level}", width, width)
        draw_unit("neck.conv_proj.0" if level == 0 else f"neck.trans_proj.{level - 1}", WIDTH, width)
        fusion = "neck.conv_fusion.0" if level == 0 else f"neck.trans_fusion.{level - 1}"
        draw_unit(fusion, width, width + WIDTH, kernel=3)
    state["neck.level_embed"] = torch.randn(4, WIDTH, generator=generator)
    draw("neck.reference_points", 2, WIDTH)
    for attention in ("neck.self_attn", "neck.multi_att"):
        draw(f"{attention}.sampling_offsets", HEADS * 4 * POINTS * 2, WIDTH)
        draw(f"{attention}.attention_weights", HEADS * 4 * POINTS, WIDTH)
        draw(f"{attention}.value_proj", WIDTH, WIDTH)
        draw(f"{attention}.output_proj", WIDTH, WIDTH)

    draw("decode_head.conv_list.0.conv", 768, 768, 1, 1)
    for stage, (coarse, fine) in enumerate(zip(LEVELS[:0:-1], LEVELS[-2::-1], strict=True), 1):
        draw(f"decode_head.conv_list.{stage}.convA.conv", fine, coarse + fine, 3, 3)
        draw(f"decode_head.conv_list.{stage}.convB.conv", fine, fine, 3, 3)
    draw("decode_head.conv_depth", 1, 64, 3, 3, spread=2.0)
    state["decode_head.conv_depth.bias"] += 5
    return state


def depthformer(state: State, images: Tensor) -> Tensor:
    """Depth [B, 1, H/2, W/2] of images [B, 3, H, W], in evaluation, without an upper end."""
    stem = F.conv2d(images, state["backbone.conv1.weight"], stride=2, padding=3)
    levels = [_batch_norm(state, "backbone.bn1", stem).relu(), *swin(state, images)]
    levels = _neck(state, levels)
    x = _conv(state, "decode_head.conv_list.0.conv", levels[-1])
    for stage, skip in enumerate(levels[-2::-1], 1):
        x = torch.cat([F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True), skip], dim=1)
        for part in ("convA", "convB"):
            x = F.leaky_relu(_conv(state, f"decode_head.conv_list.{stage}.{part}.conv", x))
    return _conv(state, "decode_head.conv_depth", x).relu() + 0.001


def swin(state: State, images: Tensor) -> list[Tensor]:
    """Levels [B, C, H, W]."""
    images = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
    x = _conv(state, "backbone.patch_embed.projection", images, stride=4, padding=0).permute(0, 2, 3, 1)
    x = _norm(state, "backbone.patch_embed.norm", x)
    levels = []
    for stage in range(4):
        for index in range(DEPTHS[stage]):
            block = f"backbone.stages.{stage}.blocks.{index}"
            x = x + _attention(
                state, f"{block}.attn.w_msa", _norm(state, f"{block}.norm1", x), index % 2 * (WINDOW // 2)
            )
            hidden = F.gelu(_linear(state, f"{block}.ffn.layers.0.0", _norm(state, f"{block}.norm2", x)))
            x = x + _linear(state, f"{block}.ffn.layers.1", hidden)
        levels.append(_norm(state, f"backbone.norm{stage}", x).permute(0, 3, 1, 2))
        if stage < 3:
            merge = f"backbone.stages.{stage}.downsample"
            B, H, W, C = x.shape
            x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2)).permute(0, 3, 1, 2)
            x = F.unfold(x, 2, stride=2).mT.reshape(B, (H + 1) // 2, (W + 1) // 2, 4 * C)
            x = _norm(state, f"{merge}.norm", x) @ state[f"{merge}.reduction.weight"].mT
    return levels


def _attention(state: State, name: str, x: Tensor, shift: int) -> Tensor:
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % WINDOW, 0, -H % WINDOW))
    height, width = x.shape[1:3]
    places, groups = [], []
    for length in (height, width):  # after the shift
        place = (torch.arange(length) - shift) % length
        places.append(place)
        groups.append(2 * (place // WINDOW) + (place >= length - shift))
    rows, columns = (part.flatten() for part in torch.meshgrid(*places, indexing="ij"))
    group = (groups[0][:, None] * 2 * width + groups[1]).flatten()
    query, key, value = (
        _linear(state, f"{name}.qkv", x).view(B, height * width, 3, C // 32, 32).permute(2, 0, 3, 1, 4).unbind()
    )
    steps = [(part[:, None] - part).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1 for part in (rows, columns)]
    table = state[f"{name}.relative_position_bias_table"][steps[0] * (2 * WINDOW - 1) + steps[1]]
    logits = query @ key.mT / 32**0.5 + table.permute(2, 0, 1)
    weights = logits.masked_fill(group[:, None] != group, -torch.inf).softmax(dim=-1)
    mixed = (weights @ value).transpose(1, 2).reshape(B, height, width, C)[:, :H, :W]
    return _linear(state, f"{name}.proj", mixed)


def _neck(state: State, levels: list[Tensor]) -> list[Tensor]:
    laterals = [_unit(state, f"neck.lateral_convs.{index}", level) for index, level in enumerate(levels)]
    sizes = [tuple(level.shape[2:]) for level in laterals]
    tokens = [_unit(state, f"neck.trans_proj.{index}", level).flatten(2).mT for index, level in enumerate(laterals[1:])]
    source = torch.cat(tokens, dim=1)
    vectors = state["neck.level_embed"]
    positions = torch.cat([_sines(size) + vector for size, vector in zip(sizes[1:], vectors, strict=True)])
    centres = []
    for height, width in sizes[1:]:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], dim=1))
    source = _deformable(state, "neck.self_attn", source, positions, source, torch.cat(centres), sizes[1:])

    query, position = _unit(state, "neck.conv_proj.0", laterals[0]).flatten(2).mT, _sines(sizes[0])
    reference = _linear(state, "neck.reference_points", position).sigmoid()
    query = _deformable(state, "neck.multi_att", query, position, source, reference, sizes[1:])
    fine = torch.cat([query.mT.unflatten(2, sizes[0]), laterals[0]], dim=1)
    results = [_unit(state, "neck.conv_fusion.0", fine, padding=1)]
    start = 0
    for index, (lateral, size) in enumerate(zip(laterals[1:], sizes[1:], strict=True)):
        end = start + size[0] * size[1]
        joined = torch.cat([lateral, source[:, start:end].mT.unflatten(2, size)], dim=1)
        results.append(_unit(state, f"neck.trans_fusion.{index}", joined, padding=1))
        start = end
    return results


def _deformable(
    state: State, name: str, tokens: Tensor, position: Tensor, source: Tensor, reference: Tensor, sizes: list
) -> Tensor:
    B, N, _ = tokens.shape
    query = tokens + position
    offsets = _linear(state, f"{name}.sampling_offsets", query).view(B, N, HEADS, 4, POINTS, 2)
    weights = _linear(state, f"{name}.attention_weights", query).view(B, N, HEADS, -1).softmax(-1)
    weights = weights.view(B, N, HEADS, 4, POINTS)
    values = _linear(state, f"{name}.value_proj", source).view(B, -1, HEADS, WIDTH // HEADS)
    read, start = torch.zeros(B, N, HEADS, WIDTH // HEADS), 0
    for level, (height, width) in enumerate(sizes):
        places = reference[:, None, None] * torch.tensor([width, height]) + offsets[:, :, :, level] - 0.5
        x, y = places.unbind(-1)
        rows = (1 - (y[..., None] - torch.arange(height)).abs()).clamp(min=0)
        columns = (1 - (x[..., None] - torch.arange(width)).abs()).clamp(min=0)
        share = torch.einsum("bnhp,bnhpy,bnhpx->bnhyx", weights[:, :, :, level], rows, columns).flatten(3)
        pixels = values[:, start : start + height * width]
        read += torch.einsum("bnhs,bshd->bnhd", share, pixels)
        start += height * width
    return tokens + _linear(state, f"{name}.output_proj", read.flatten(2))


def _sines(size: tuple[int, int]) -> Tensor:
    position = torch.zeros(*size, WIDTH)
    for pair in range(WIDTH // 4):
        frequency = 10_000 ** (-2 * pair / (WIDTH // 2))
        rows, columns = (torch.arange(1, length + 1) * frequency for length in size)
        position[..., 2 * pair] = rows.sin()[:, None]
        position[..., 2 * pair + 1] = rows.cos()[:, None]
        position[..., WIDTH // 2 + 2 * pair] = columns.sin()
        position[..., WIDTH // 2 + 2 * pair + 1] = columns.cos()
    return position.flatten(0, 1)


def _unit(state: State, name: str, x: Tensor, padding: int = 0) -> Tensor:
    return _batch_norm(state, f"{name}.bn", F.conv2d(x, state[f"{name}.conv.weight"], padding=padding)).relu()


def _batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    parts = {part: state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
    return F.batch_norm(x, **parts)


def _conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
    weight = state[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, weight, state[f"{name}.bias"], stride, padding)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].mT + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])
