# mypy: disable-error-code="no-untyped-def"
# (Only Triton knows the types that kernels take and return.)
"""The Triton kernels of points_triton.py. [P] are the pixels and [C] the channels of one program.

Channels of a pixel are read together where they lie together (channels_last), 16 bytes by a thread.
"""

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

NO_START, NEAREST, BILINEAR = (tl.constexpr(number) for number in range(3))


@triton.jit
def _program(pixels, G: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr):
    """Image, group, pixels [P] and the second index of this program, with 64 bits if addresses need them."""
    tiles = tl.cdiv(pixels, BLOCK_P)
    image, group = tl.program_id(0) // tiles // G, tl.program_id(0) // tiles % G
    pixel = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    second = tl.program_id(1)
    if WIDE:
        image, group, pixel, second = image.to(tl.int64), group.to(tl.int64), pixel.to(tl.int64), second.to(tl.int64)
    return image, group, pixel, second


@triton.jit
def _axis(
    raw, scope, AXIS: tl.constexpr, first, row, column, mask, factor, strides, S: tl.constexpr, START: tl.constexpr
):
    """For output pixels [P] and one axis: start, step from it, raw offset and gate in float32; address of the last two.

    Positions are in low-res pixels, 0 at the centre of the first. The gate is sigmoid(scope), or 1 without scope.
    """
    at = first + AXIS * strides[1] + row // S * strides[6] + column // S * strides[7]
    at += row % S * strides[4] + column % S * strides[5]
    value = tl.load(raw + at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.full(value.shape, 1.0, tl.float32)
    if scope is not None:
        gate = 1.0 / (1.0 + tl.exp(-tl.load(scope + at, mask=mask, other=0.0).to(tl.float32)))
    along = column if AXIS == 0 else row
    start = tl.full(value.shape, -0.5, tl.float32)
    if START != NO_START:
        start = (along // S).to(tl.float32)
    if START == BILINEAR:
        start += (2 * (along % S) + 1 - S).to(tl.float32) * (0.5 / S)
    return start, value * gate * factor, value, gate, at


@triton.jit
def _positions(
    raw, scope, first, row, column, mask, factor, strides, H, W,
    S: tl.constexpr, START: tl.constexpr, BORDER: tl.constexpr,
):  # fmt: skip
    """The positions that output pixels [P] read, whether they are near their starts, and NaN where wrong, else 0."""
    x0, step_x, _, _, _ = _axis(raw, scope, 0, first, row, column, mask, factor, strides, S, START)
    y0, step_y, _, _, _ = _axis(raw, scope, 1, first, row, column, mask, factor, strides, S, START)
    # A longer step may leave the nine pixels around the start. Steps are compared, not positions, since kernels may
    # round the sums in different ways.
    reach = 1.0 if START == NEAREST else 0.5 + 0.5 / S
    near = (tl.abs(step_x) <= reach) & (tl.abs(step_y) <= reach)
    X, Y = x0 + step_x, y0 + step_y
    return _readable(X, W, BORDER), _readable(Y, H, BORDER), near, X * 0.0 + Y * 0.0


@triton.jit
def _readable(position, size, BORDER: tl.constexpr):
    """Clamp to the outermost pixel centres, or if zeros are around the map, to two pixels from it.

    NaN and infinity become 0, so that they are never used as an address.
    """
    away = 0.0 if BORDER else 2.0
    nearest = tl.minimum(tl.maximum(position, -away), (size - 1) + away)
    return tl.where(tl.abs(position) < float("inf"), nearest, 0.0)


@triton.jit
def _corners(x, image, channel, X, Y, mask, H, W, strides, WIDE: tl.constexpr):
    """The four features around positions, row by row, 0 outside the map, and the fractions of column and row.

    Features are float32 [P, C], fractions float32 [P, 1].
    """
    left, top = tl.floor(X).to(tl.int32), tl.floor(Y).to(tl.int32)
    is_left, is_right = (left >= 0) & (left < W), (left >= -1) & (left < W - 1)
    is_top, is_bottom = (top >= 0) & (top < H), (top >= -1) & (top < H - 1)
    pixel = top * W + left
    if WIDE:
        pixel = pixel.to(tl.int64)
    at = x + image * strides[0] + (pixel * strides[2])[:, None] + (channel * strides[1])[None, :]
    right, below = strides[2], W * strides[2]
    p = tl.load(at, mask=mask & (is_top & is_left)[:, None], other=0.0).to(tl.float32)
    q = tl.load(at + right, mask=mask & (is_top & is_right)[:, None], other=0.0).to(tl.float32)
    r = tl.load(at + below, mask=mask & (is_bottom & is_left)[:, None], other=0.0).to(tl.float32)
    s = tl.load(at + below + right, mask=mask & (is_bottom & is_right)[:, None], other=0.0).to(tl.float32)
    return p, q, r, s, (X - left)[:, None], (Y - top)[:, None]


@triton.jit
def sum_kernel(
    x, raw, scope, weights, output, H, W, h, w, channels, points, factor, strides, x_strides, y_strides,
    G: tl.constexpr, S: tl.constexpr, START: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Compute output pixels [P] and channels [C] of one group in one image: sums over all points."""
    image, group, pixel, tile = _program(h * w, G, WIDE, BLOCK_P)
    inside = pixel < h * w
    row, column = pixel // w, pixel % w
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = inside[:, None] & (channel < channels)[None, :]
    channel += group * channels
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for point in range(points):
        first = image * strides[0] + group * strides[2] + (0 * image + point) * strides[3]  # as wide as image
        X, Y, _, poison = _positions(raw, scope, first, row, column, inside, factor, strides, H, W, S, START, BORDER)
        p, q, r, s, a, b = _corners(x, image, channel, X, Y, mask, H, W, x_strides, WIDE)
        value = (1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * r + a * s) + poison[:, None]
        if weights is not None:
            at = ((image * G + group) * points + point) * (h * w) + pixel
            value *= tl.load(weights + at, mask=inside, other=0.0)[:, None]
        total += value
    at = image * y_strides[0] + (pixel * y_strides[2])[:, None] + (channel * y_strides[1])[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=mask)


@triton.jit
def score_kernel(
    y, x, raw, scope, weights, scores, grad_raw, grad_scope, H, W, h, w, channels, points, factor,
    strides, x_strides, y_strides,
    G: tl.constexpr, S: tl.constexpr, START: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """For output pixels [P], one point, one group, one image: products of y with what is read, and their gradients."""
    image, group, pixel, point = _program(h * w, G, WIDE, BLOCK_P)
    inside = pixel < h * w
    row, column = pixel // w, pixel % w
    first = image * strides[0] + group * strides[2] + point * strides[3]
    x0, step_x, raw_x, gate_x, at_x = _axis(raw, scope, 0, first, row, column, inside, factor, strides, S, START)
    y0, step_y, raw_y, gate_y, at_y = _axis(raw, scope, 1, first, row, column, inside, factor, strides, S, START)
    X, Y = x0 + step_x, y0 + step_y
    poison = X * 0.0 + Y * 0.0
    free_x, free_y = X == X, Y == Y
    if BORDER:  # clamped positions have no slope
        free_x, free_y = (X > 0) & (X < W - 1), (Y > 0) & (Y < H - 1)
    X, Y = _readable(X, W, BORDER), _readable(Y, H, BORDER)
    score = tl.zeros((BLOCK_P,), tl.float32)
    slope_x = tl.zeros((BLOCK_P,), tl.float32)
    slope_y = tl.zeros((BLOCK_P,), tl.float32)
    for start in range(0, channels, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        mask = inside[:, None] & (channel < channels)[None, :]
        channel += group * channels
        p, q, r, s, a, b = _corners(x, image, channel, X, Y, mask, H, W, x_strides, WIDE)
        at = image * y_strides[0] + (pixel * y_strides[2])[:, None] + (channel * y_strides[1])[None, :]
        value = tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        if scores is not None:
            score += tl.sum(value * ((1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * r + a * s)), 1)
        if grad_raw is not None:
            slope_x += tl.sum(value * ((1 - b) * (q - p) + b * (s - r)), 1)
            slope_y += tl.sum(value * ((1 - a) * (r - p) + a * (s - q)), 1)
    number = ((image * G + group) * points + point) * (h * w) + pixel
    if scores is not None:
        tl.store(scores + number, score + poison, mask=inside)
    if grad_raw is not None:
        scale = factor
        if weights is not None:
            scale *= tl.load(weights + number, mask=inside, other=0.0)
        along_x = scale * (tl.where(free_x, slope_x, 0.0) + poison)
        along_y = scale * (tl.where(free_y, slope_y, 0.0) + poison)
        dtype = grad_raw.dtype.element_ty
        tl.store(grad_raw + at_x, (along_x * gate_x).to(dtype), mask=inside)
        tl.store(grad_raw + at_y, (along_y * gate_y).to(dtype), mask=inside)
        if scope is not None:
            dtype = grad_scope.dtype.element_ty
            tl.store(grad_scope + at_x, (along_x * raw_x * gate_x * (1 - gate_x)).to(dtype), mask=inside)
            tl.store(grad_scope + at_y, (along_y * raw_y * gate_y * (1 - gate_y)).to(dtype), mask=inside)


@triton.jit
def cells_kernel(
    raw, scope, cells, tickets, counts, H, W, h, w, points, factor, strides,
    G: tl.constexpr, S: tl.constexpr, START: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr,
    WINDOW: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """For output pixels [P]: the cell that they read, or -1 if they are not to be listed, and a place in its list.

    Cells: [B, G, H + 1, W + 1], since some are half outside. counts: how many points each cell has, one place further.
    """
    image, group, pixel, point = _program(h * w, G, WIDE, BLOCK_P)
    inside = pixel < h * w
    first = image * strides[0] + group * strides[2] + point * strides[3]
    X, Y, near, _ = _positions(
        raw, scope, first, pixel // w, pixel % w, inside, factor, strides, H, W, S, START, BORDER
    )
    left, top = tl.floor(X).to(tl.int32), tl.floor(Y).to(tl.int32)
    listed = inside & (left >= -1) & (left < W) & (top >= -1) & (top < H)
    if WINDOW:
        listed = listed & (near == 0)
    cell = ((image * G + group) * (H + 1) + top + 1) * (W + 1) + left + 1
    ticket = tl.atomic_add(counts + cell + 1, 1, mask=listed, sem="relaxed")
    number = ((image * G + group) * points + point) * (h * w) + pixel
    tl.store(cells + number, tl.where(listed, cell, -1), mask=inside)
    tl.store(tickets + number, ticket, mask=listed)


@triton.jit
def list_kernel(cells, tickets, begins, mixed, total, BLOCK_P: tl.constexpr):
    """Write points [P] into the lists of their cells, by their tickets."""
    number = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    cell = tl.load(cells + number, mask=number < total, other=-1)
    begin = tl.load(begins + cell, mask=cell >= 0, other=0)
    ticket = tl.load(tickets + number, mask=cell >= 0, other=0)
    tl.store(mixed + begin + ticket, number, mask=cell >= 0)


@triton.jit
def order_kernel(cells, begins, mixed, lists, total, BLOCK_P: tl.constexpr):
    """Write points [P] into the lists of their cells, in the order of their numbers."""
    number = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    cell = tl.load(cells + number, mask=number < total, other=-1)
    begin = tl.load(begins + cell, mask=cell >= 0, other=0)
    length = tl.load(begins + cell + 1, mask=cell >= 0, other=0) - begin
    rank = tl.zeros((BLOCK_P,), tl.int32)
    for index in range(tl.max(length, 0)):
        other = tl.load(mixed + begin + index, mask=index < length, other=total)
        rank += (other < number).to(tl.int32)
    tl.store(lists + begin + rank, number, mask=cell >= 0)


@triton.jit
def features_kernel(
    raw, scope, weights, lists, begins, y, grad_x, H, W, h, w, channels, points, factor, strides, x_strides, y_strides,
    G: tl.constexpr, S: tl.constexpr, START: tl.constexpr, BORDER: tl.constexpr, WIDE: tl.constexpr,
    WINDOW: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of feature pixels [P] and channels [C] of one group in one image.

    lists: for all cells, one after another, the points that read it, as numbers in [B, G, points, h, w]. begins: where
    each cell's begins.
    """
    image, group, pixel, tile = _program(H * W, G, WIDE, BLOCK_P)
    inside = pixel < H * W
    row, column = pixel // W, pixel % W
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = (channel < channels)[None, :]
    channel += group * channels
    first = image * strides[0] + group * strides[2]
    maps = y + image * y_strides[0] + (channel * y_strides[1])[None, :]
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if WINDOW:
        for index in range(9 * S * S):
            r, c = (row - 1) * S + index // (3 * S), (column - 1) * S + index % (3 * S)
            exists = inside & (r >= 0) & (r < h) & (c >= 0) & (c < w)
            X, Y, near, _ = _positions(raw, scope, first, r, c, exists, factor, strides, H, W, S, START, BORDER)
            share = tl.maximum(1 - tl.abs(X - column), 0.0) * tl.maximum(1 - tl.abs(Y - row), 0.0)
            share = tl.where(near & exists, share, 0.0)
            at = maps + ((r * w + c) * y_strides[2])[:, None]
            total += share[:, None] * tl.load(at, mask=valid & (share > 0)[:, None], other=0.0).to(tl.float32)
    for below in tl.static_range(2):
        # The cells to the left and right of the pixel are consecutive, so their two lists form one.
        cell = ((image * G + group) * (H + 1) + row + below) * (W + 1) + column
        begin = tl.load(begins + cell, mask=inside, other=0)
        length = tl.load(begins + cell + 2, mask=inside, other=0) - begin
        for index in range(tl.max(length, 0)):
            listed = index < length
            number = tl.load(lists + begin + index, mask=listed, other=0)
            if WIDE:
                number = number.to(tl.int64)
            other, point = number % (h * w), number // (h * w) % points
            where = first + point * strides[3]
            X, Y, _, _ = _positions(
                raw, scope, where, other // w, other % w, listed, factor, strides, H, W, S, START, BORDER
            )
            share = tl.maximum(1 - tl.abs(X - column), 0.0) * tl.maximum(1 - tl.abs(Y - row), 0.0)
            share = tl.where(listed, share, 0.0)
            if weights is not None:
                share *= tl.load(weights + number, mask=listed, other=0.0)
            at = maps + (other * y_strides[2])[:, None]
            total += share[:, None] * tl.load(at, mask=valid & listed[:, None], other=0.0).to(tl.float32)
    at = image * x_strides[0] + (pixel * x_strides[2])[:, None] + (channel * x_strides[1])[None, :]
    tl.store(grad_x + at, total.to(grad_x.dtype.element_ty), mask=valid & inside[:, None])
