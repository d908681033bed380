// Bilinear reads at any positions, for CPUs: sums, scores and their gradients. points_cpu.py compiles and calls this.
//
// A map is cut into slices of 16 or 32 channels. A slice is copied to [H + 4][W + 4][channels] float32: all channels of
// a pixel side by side, two pixels of zeros around the map, so that no read needs a condition. It stays in the cache
// while the output pixels are computed in blocks, a block at a time for the whole slice.
// One slice of one map is one task. No two tasks write to the same place, and sums over slices are added in their
// order. So results do not depend on the number of threads.

#include "maps_cpu.h"

constexpr int MOST_CHANNELS = 32, BLOCK = 64, RING = 2;

// --- one call -------------------------------------------------------------------------------------------------------

struct Call {
    int64_t maps, groups, channels, height, width;  // maps: images x groups; channels: of one group
    int64_t points, pixels;                         // n points of each of N output pixels
    int64_t slice;                                  // channels of a slice: 16 or 32
    int64_t border;                                 // what is outside the map: its border, or 0
    const float* positions;                         // [images, groups, n, N, 2]: column, row
    int64_t of_image, of_group, of_point, of_pixel, of_axis;  // its strides; those of the last two are 1 and N, or 2 and 1
    const float* weights;                           // [maps, n, N], or null
    Map x;                                          // what is read
    Map y;                                          // of the output's size: the sum, or what scores are taken with
    Map grad_x;                                     // of x; data may be null
    float* grad_positions;                          // [slices] times as positions, or null
    float* scores;                                  // [slices, maps, n, N], or null
};

// Where the pixels of a block read, for one of their n points.
struct Places {
    int32_t index[BLOCK];                    // of the pixel at the top left, in the slice
    int32_t left[BLOCK], top[BLOCK];         // the same pixel in the map
    float a[BLOCK], b[BLOCK];                // how far to the right of it and below
    float poison_x[BLOCK], poison_y[BLOCK], poison[BLOCK];  // NaN where the position is not finite, else 0
    float free_x[BLOCK], free_y[BLOCK];      // 0 where the position is clamped, else 1
    float weight[BLOCK], share[4][BLOCK];    // of the point, and of each of its four pixels
};

static int64_t position(const Call& call, int64_t map, int64_t point, int64_t p) {
    const int64_t image = map / call.groups, group = map % call.groups;
    return image * call.of_image + group * call.of_group + point * call.of_point + p * call.of_pixel;
}

template <int N>
static void find_places(const Call& call, int64_t map, int64_t point, int64_t p, int64_t count, Places& places) {
    const float* positions = call.positions + position(call, map, point, p);
    const float* weights = call.weights ? call.weights + (map * call.points + point) * call.pixels + p : nullptr;
    const float last_x = call.width - 1, last_y = call.height - 1;
    // Beyond a pixel and a half outside the map all four pixels around a position are zeros.
    const float margin = call.border ? 0.0f : 1.5f;
    const int32_t row_length = call.width + 2 * RING;
    float columns[N] = {}, rows[N] = {};
    if (call.of_pixel == 1) {
        memcpy(columns, positions, count * sizeof(float));
        memcpy(rows, positions + call.of_axis, count * sizeof(float));
    } else {
        for (int i = 0; i < count; i++) columns[i] = positions[2 * i], rows[i] = positions[2 * i + 1];
    }
    for (int i = 0; i < N; i++) {
        float x = columns[i] - 0.5f, y = rows[i] - 0.5f;
        places.poison_x[i] = x * 0.0f;
        places.poison_y[i] = y * 0.0f;
        places.free_x[i] = (x > -margin) & (x < last_x + margin) ? 1.0f : 0.0f;
        places.free_y[i] = (y > -margin) & (y < last_y + margin) ? 1.0f : 0.0f;
        x = x > -margin ? x : -margin;  // and NaN
        y = y > -margin ? y : -margin;
        x = x < last_x + margin ? x : last_x + margin;
        y = y < last_y + margin ? y : last_y + margin;
        float left = __builtin_floorf(x), top = __builtin_floorf(y);
        places.a[i] = x - left;
        places.b[i] = y - top;
        places.left[i] = (int32_t)left;
        places.top[i] = (int32_t)top;
        places.index[i] = (places.top[i] + RING) * row_length + places.left[i] + RING;
    }
    for (int i = 0; i < N; i++) places.weight[i] = weights && i < count ? weights[i] : 1.0f;
    for (int i = 0; i < N; i++) {
        const float a = places.a[i], b = places.b[i], upper = places.weight[i] * (1 - b), lower = places.weight[i] * b;
        places.share[0][i] = upper * (1 - a);
        places.share[1][i] = upper * a;
        places.share[2][i] = lower * (1 - a);
        places.share[3][i] = lower * a;
        places.poison[i] = places.poison_x[i] + places.poison_y[i];
    }
}

struct Scratch {
    float* slice;  // [H + 4][W + 4][channels]
    float* grad;   // the same, or null
    float tile[BLOCK * MOST_CHANNELS] __attribute__((aligned(64)));
    float along_x[BLOCK * LANES] __attribute__((aligned(64)));
    float along_y[BLOCK * LANES] __attribute__((aligned(64)));
    float value[BLOCK * LANES] __attribute__((aligned(64)));
};

template <int S> static void sum_block(const Call& call, const Places& places, int64_t count, bool is_first, Scratch& scratch) {
    const int64_t row = (call.width + 2 * RING) * S;
    for (int64_t p = 0; p < count; p++) {
        const float* at = scratch.slice + (int64_t)places.index[p] * S;
        float* to = scratch.tile + p * S;
        const Vector p00 = all(places.share[0][p]), p01 = all(places.share[1][p]);
        const Vector p10 = all(places.share[2][p]), p11 = all(places.share[3][p]), poison = all(places.poison[p]);
        for (int c = 0; c < S; c += LANES) {
            Vector sum = is_first ? poison : load(to + c) + poison;
            sum += p00 * load(at + c) + p01 * load(at + S + c);
            sum += p10 * load(at + row + c) + p11 * load(at + row + S + c);
            store(to + c, sum);
        }
    }
}

// The products of tile and what is read: with the values and with their slopes. And the gradient of what is read.
template <int S, bool WITH_GRAD>
static void score_block(const Call& call, const Places& places, int64_t count, Scratch& scratch) {
    const int64_t row = (call.width + 2 * RING) * S;
    for (int64_t p = 0; p < count; p++) {
        const float* at = scratch.slice + (int64_t)places.index[p] * S;
        float* grad = WITH_GRAD ? scratch.grad + (int64_t)places.index[p] * S : nullptr;
        const Vector a = all(places.a[p]), b = all(places.b[p]);
        const Vector p00 = all(places.share[0][p]), p01 = all(places.share[1][p]);
        const Vector p10 = all(places.share[2][p]), p11 = all(places.share[3][p]);
        Vector along_x = {}, along_y = {}, value = {};
        for (int c = 0; c < S; c += LANES) {
            const Vector given = load(scratch.tile + p * S + c);
            const Vector p = load(at + c), q = load(at + S + c), r = load(at + row + c), s = load(at + row + S + c);
            const Vector top = q - p, down = r - p, twist = (s - r) - top;
            along_x += given * (top + b * twist);
            along_y += given * (down + a * twist);
            value += given * (p + a * top + b * (down + a * twist));
            if (WITH_GRAD) {
                store(grad + c, load(grad + c) + p00 * given);
                store(grad + S + c, load(grad + S + c) + p01 * given);
                store(grad + row + c, load(grad + row + c) + p10 * given);
                store(grad + row + S + c, load(grad + row + S + c) + p11 * given);
            }
        }
        store(scratch.along_x + p * LANES, along_x);
        store(scratch.along_y + p * LANES, along_y);
        store(scratch.value + p * LANES, value);
    }
}

static void write_scores(const Call& call, const Places& places, float* scores, float* grads, int64_t count, Scratch& scratch) {
    for (int64_t p = 0; p < count; p += LANES) {
        const Vector along_x = sums(scratch.along_x + p * LANES), along_y = sums(scratch.along_y + p * LANES);
        const Vector value = sums(scratch.value + p * LANES);
        for (int64_t i = 0; i < LANES && p + i < count; i++) {
            const float w = places.weight[p + i], poison_x = places.poison_x[p + i], poison_y = places.poison_y[p + i];
            if (scores) scores[p + i] = value[i] + poison_x + poison_y;
            if (!grads) continue;
            float* grad = grads + (p + i) * call.of_pixel;
            grad[0] = w * along_x[i] * places.free_x[p + i] + poison_x;
            grad[call.of_axis] = w * along_y[i] * places.free_y[p + i] + poison_y;
        }
    }
}

enum Work { SUM, SCORE };

template <int S> static void run_task(const Call& call, Work work, int64_t map, int64_t slice, Scratch& scratch) {
    const int64_t image = map / call.groups, first = slice * call.slice;
    const int64_t channel = map % call.groups * call.channels + first;
    const int64_t channels = call.channels - first < S ? call.channels - first : S;
    const int64_t row = call.width + 2 * RING, size = (call.height + 2 * RING) * row * S;
    const size_t margin = RING * row * S, side = RING * S;
    memset(scratch.slice, 0, margin * sizeof(float));
    memset(scratch.slice + size - margin, 0, margin * sizeof(float));
    for (int64_t y = 0; y < call.height; y++) {
        float* to = scratch.slice + ((y + RING) * row + RING) * S;
        memset(to - side, 0, side * sizeof(float));
        read(call.x, image, channel, channels, y * call.width, call.width, to, S);
        memset(to + call.width * S, 0, side * sizeof(float));
    }
    if (call.grad_x.data) memset(scratch.grad, 0, size * sizeof(float));

    Places places;
    for (int64_t p = 0; p < call.pixels; p += BLOCK) {
        const int64_t count = call.pixels - p < BLOCK ? call.pixels - p : BLOCK;
        if (work == SCORE) read(call.y, image, channel, channels, p, count, scratch.tile, S);
        for (int64_t point = 0; point < call.points; point++) {
            find_places<BLOCK>(call, map, point, p, count, places);
            if (work == SUM) {
                sum_block<S>(call, places, count, point == 0, scratch);
                continue;
            }
            if (call.grad_x.data) score_block<S, true>(call, places, count, scratch);
            else score_block<S, false>(call, places, count, scratch);
            const int64_t at = ((slice * call.maps + map) * call.points + point) * call.pixels + p;
            const int64_t all = 2 * call.maps * call.points * call.pixels;
            float* grads = call.grad_positions ? call.grad_positions + slice * all + position(call, map, point, p) : nullptr;
            write_scores(call, places, call.scores ? call.scores + at : nullptr, grads, count, scratch);
        }
        if (work == SUM) write(call.y, image, channel, channels, p, count, scratch.tile, S);
    }
    if (call.grad_x.data)
        for (int64_t y = 0; y < call.height; y++)
            write(call.grad_x, image, channel, channels, y * call.width, call.width, scratch.grad + ((y + RING) * row + RING) * S, S);
}

// --- channels last: no slices ---------------------------------------------------------------------------------------

// Where all channels of a pixel lie side by side, maps are read and written in place, a block of output pixels at a time
// for all groups: few rows of the map are in use at once, and the output is written in its order.

constexpr int FEW = 16;   // output pixels
constexpr int AHEAD = 6;  // pixels of the map

static bool is_in_place(const Call& call) {
    return call.slice == call.channels && call.channels % LANES == 0 && call.x.channel == 1 && call.y.channel == 1 &&
           !call.x.is_bfloat16 && !call.y.is_bfloat16;
}

// The four pixels around a place, each at its first channel; `outside` for those that are not in the map.
static inline void find_corners(
    const Call& call, const Places& places, int64_t p, float* map, float* outside, float** corners
) {
    for (int i = 0; i < 4; i++) {
        const int64_t x = places.left[p] + i % 2, y = places.top[p] + i / 2;
        const bool is_inside = x >= 0 && x < call.width && y >= 0 && y < call.height;
        corners[i] = is_inside ? map + (y * call.width + x) * call.x.pixel : outside;
    }
}

static inline float* pixel_of(const Map& map, int64_t image, int64_t pixel, int64_t channel) {
    return (float*)map.data + image * map.image + pixel * map.pixel + channel;
}

static void sum_in_place(const Call& call, int64_t image, int64_t first, int64_t end, float* zeros) {
    memset(zeros, 0, call.channels * sizeof(float));
    Places places;
    for (int64_t p = first; p < end; p += FEW) {
        const int64_t count = end - p < FEW ? end - p : FEW;
        for (int64_t group = 0; group < call.groups; group++) {
            float* map = pixel_of(call.x, image, 0, group * call.channels);
            for (int64_t point = 0; point < call.points; point++) {
                find_places<FEW>(call, image * call.groups + group, point, p, count, places);
                for (int64_t i = 0; i < count; i++) {
                    float* corners[4];
                    find_corners(call, places, i, map, zeros, corners);
                    float* to = pixel_of(call.y, image, p + i, group * call.channels);
                    const Vector p00 = all(places.share[0][i]), p01 = all(places.share[1][i]);
                    const Vector p10 = all(places.share[2][i]), p11 = all(places.share[3][i]);
                    const Vector poison = all(places.poison[i]);
                    for (int64_t c = 0; c < call.channels; c += LANES) {
                        Vector sum = point ? load(to + c) + poison : poison;
                        sum += p00 * load(corners[0] + c) + p01 * load(corners[1] + c);
                        sum += p10 * load(corners[2] + c) + p11 * load(corners[3] + c);
                        if (call.points == 1) stream(to + c, sum);
                        else store(to + c, sum);
                    }
                }
            }
        }
    }
}

struct Block {  // of one group
    Places places;
    Scratch scratch;
};

template <bool WITH_GRAD>
static void score_in_place(const Call& call, int64_t image, int64_t group, int64_t end_group, float* memory) {
    float* zeros = memory;
    float* unused = zeros + call.channels;
    Block* blocks = (Block*)(unused + call.channels) - group;
    memset(memory, 0, 2 * call.channels * sizeof(float));
    const int64_t start = group, channels = (end_group - start) * call.channels, ahead = AHEAD * call.x.pixel;
    if (WITH_GRAD)
        for (int64_t p = 0; p < call.height * call.width; p++)
            memset(pixel_of(call.grad_x, image, p, start * call.channels), 0, channels * sizeof(float));
    for (int64_t p = 0; p < call.pixels; p += FEW)
        for (int64_t point = 0; point < call.points; point++) {
            const int64_t count = call.pixels - p < FEW ? call.pixels - p : FEW, first = image * call.groups;
            for (group = start; group < end_group; group++)
                find_places<FEW>(call, first + group, point, p, count, blocks[group].places);
            for (int64_t i = 0; i < count; i++)
                for (group = start; group < end_group; group++) {
                    const Places& places = blocks[group].places;
                    Scratch& scratch = blocks[group].scratch;
                    const int64_t channel = group * call.channels;
                    float *corners[4], *grads[4];
                    find_corners(call, places, i, pixel_of(call.x, image, 0, channel), zeros, corners);
                    if (WITH_GRAD) find_corners(call, places, i, pixel_of(call.grad_x, image, 0, channel), unused, grads);
                    const float* from = pixel_of(call.y, image, p + i, channel);
                    const Vector a = all(places.a[i]), b = all(places.b[i]);
                    const Vector p00 = all(places.share[0][i]), p01 = all(places.share[1][i]);
                    const Vector p10 = all(places.share[2][i]), p11 = all(places.share[3][i]);
                    Vector along_x = {}, along_y = {}, value = {};
                    for (int64_t c = 0; c < call.channels; c += LANES) {
                        // The row below is new to the cache; what follows in it is likely to be read soon.
                        __builtin_prefetch(corners[3] + ahead + c);
                        if (WITH_GRAD) __builtin_prefetch(grads[3] + ahead + c, 1);
                        const Vector given = load(from + c), q = load(corners[0] + c);
                        const Vector r = load(corners[1] + c), s = load(corners[2] + c), t = load(corners[3] + c);
                        const Vector top = r - q, down = s - q, twist = (t - s) - top;
                        along_x += given * (top + b * twist);
                        along_y += given * (down + a * twist);
                        value += given * (q + a * top + b * (down + a * twist));
                        if (WITH_GRAD) {
                            store(grads[0] + c, load(grads[0] + c) + p00 * given);
                            store(grads[1] + c, load(grads[1] + c) + p01 * given);
                            store(grads[2] + c, load(grads[2] + c) + p10 * given);
                            store(grads[3] + c, load(grads[3] + c) + p11 * given);
                        }
                    }
                    store(scratch.along_x + i * LANES, along_x);
                    store(scratch.along_y + i * LANES, along_y);
                    store(scratch.value + i * LANES, value);
                }
            for (group = start; group < end_group; group++) {
                float* scores = call.scores ? call.scores + ((first + group) * call.points + point) * call.pixels + p : nullptr;
                float* grads = call.grad_positions ? call.grad_positions + position(call, first + group, point, p) : nullptr;
                write_scores(call, blocks[group].places, scores, grads, count, blocks[group].scratch);
            }
        }
}

static int run_in_place(const Call* call, Work work, int64_t threads) {
    const int64_t images = call->maps / call->groups;
    if (work == SUM) {
        constexpr int64_t BAND = 16 * BLOCK;
        const int64_t bands = (call->pixels + BAND - 1) / BAND;
        const auto task = [=](int64_t index, float* memory) {
            const int64_t first = index % bands * BAND, end = first + BAND < call->pixels ? first + BAND : call->pixels;
            sum_in_place(*call, index / bands, first, end, memory);
        };
        return run_tasks(task, images * bands, call->channels * sizeof(float), threads);
    }
    const int64_t parts = threads > images ? call->groups : 1, size = call->groups / parts;  // groups at a time
    const auto task = [=](int64_t index, float* memory) {
        const int64_t group = index % parts * size;
        if (call->grad_x.data) score_in_place<true>(*call, index / parts, group, group + size, memory);
        else score_in_place<false>(*call, index / parts, group, group + size, memory);
    };
    return run_tasks(task, images * parts, 2 * call->channels * sizeof(float) + size * sizeof(Block), threads);
}

static int run(const Call* call, Work work, int64_t threads) {
    if (is_in_place(*call)) return run_in_place(call, work, threads);
    const int64_t slices = (call->channels + call->slice - 1) / call->slice;
    const size_t slice = (call->height + 2 * RING) * (call->width + 2 * RING) * call->slice;
    const size_t header = (sizeof(Scratch) + 63) / 64 * 16, rounded = (slice + 15) / 16 * 16;  // in floats
    const auto task = [=](int64_t index, float* memory) {
        Scratch& scratch = *(Scratch*)memory;
        scratch.slice = memory + header;
        scratch.grad = memory + header + rounded;
        const int64_t map = index / slices, slice = index % slices;
        if (call->slice > 16 && call->channels - slice * call->slice > 16) run_task<32>(*call, work, map, slice, scratch);
        else run_task<16>(*call, work, map, slice, scratch);
    };
    const size_t bytes = (header + rounded * (call->grad_x.data ? 2 : 1)) * sizeof(float);
    return run_tasks(task, call->maps * slices, bytes, threads);
}

// Both return 0, or 1 if there was no memory.
extern "C" {
int sum_points(const Call* call, int64_t threads) { return run(call, SUM, threads); }
int score_points(const Call* call, int64_t threads) { return run(call, SCORE, threads); }
}
