// Sums of K x K windows with a kernel for each output pixel, for CPUs, and their gradients. windows_cpu.py calls this.
//
// Pixels are kept in tiles, all channels of a pixel side by side, and a map in a slice: with a ring around it, so that
// no window needs a condition. An output pixel has sub-pixels: those of one low-res pixel read the same window.
// A task writes to a place of its own and adds in one order. So results do not depend on the number of threads.

#include "maps_cpu.h"

constexpr int BLOCK = 32;  // low-res pixels, side by side in a row
constexpr int MOST_SUBPIXELS = LANES == 16 ? 4 : 2;  // computed together, as registers allow

struct Call {
    int64_t maps, groups, channels, height, width;  // maps: images x groups; channels: of one group; at low resolution
    int64_t kernel, dilation, scale;
    int64_t edge;    // pixels around the map that x itself has; the rest of the ring is zeros
    float* kernels;  // [maps, kernel², scale², height, width]
    Map x, y;        // at low resolution and its edge; at high resolution
};

enum Work { SUM, SCORE, SPREAD };  // each computes one of y, kernels and x from the other two

struct Sizes {
    int64_t subpixels, taps, padded_taps;  // taps: of all sub-pixels of a low-res pixel
    int64_t ring, row;                     // row: pixels of the slice
};

static inline int64_t rounded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

static Sizes sizes_of(const Call& call) {
    const int64_t subpixels = call.scale * call.scale, taps = call.kernel * call.kernel * subpixels;
    const int64_t ring = call.kernel / 2 * call.dilation;
    return {subpixels, taps, rounded(taps), ring, call.width + 2 * ring};
}

// Rows of x and its ring, to `slice` [rows][row][S]; row 0 is the uppermost of the ring.
static void read_rows(
    const Call& call, const Sizes& sizes, int64_t image, int64_t channel, int64_t channels, int64_t first, int64_t rows,
    float* slice, int64_t S
) {
    const int64_t zeros = sizes.ring - call.edge, width = call.width + 2 * call.edge, height = call.height + 2 * call.edge;
    for (int64_t i = 0; i < rows; i++, slice += sizes.row * S) {
        const int64_t y = first + i - zeros;
        if (y < 0 || y >= height) {
            memset(slice, 0, sizes.row * S * sizeof(float));
            continue;
        }
        memset(slice, 0, zeros * S * sizeof(float));
        read(call.x, image, channel, channels, y * width, width, slice + zeros * S, S);
        memset(slice + (zeros + width) * S, 0, zeros * S * sizeof(float));
    }
}

// A block of y, tile [scale][count · scale][S]: the sub-rows of `count` low-res pixels.
static inline int64_t row_of_y(const Call& call, int64_t h, int64_t w, int64_t subrow) {
    return ((h * call.scale + subrow) * call.width + w) * call.scale;
}

static inline int64_t place_in_tile(const Call& call, int64_t count, int64_t p, int64_t subpixel) {
    return (subpixel / call.scale * count + p) * call.scale + subpixel % call.scale;
}

static void read_y(
    const Call& call, int64_t image, int64_t channel, int64_t channels, int64_t h, int64_t w, int64_t count, float* tile, int64_t S
) {
    const int64_t pixels = count * call.scale;
    for (int64_t i = 0; i < call.scale; i++)
        read(call.y, image, channel, channels, row_of_y(call, h, w, i), pixels, tile + i * pixels * S, S);
}

static void write_y(
    const Call& call, int64_t image, int64_t channel, int64_t channels, int64_t h, int64_t w, int64_t count, float* tile, int64_t S
) {
    const int64_t pixels = count * call.scale;
    for (int64_t i = 0; i < call.scale; i++)
        write(call.y, image, channel, channels, row_of_y(call, h, w, i), pixels, tile + i * pixels * S, S);
}

static Map map_of_kernels(const Call& call, const Sizes& sizes) {
    return {call.kernels, sizes.taps * call.height * call.width, call.height * call.width, 1, 0};
}

// --- sum and spread: a task is a slice of S channels of one map -----------------------------------------------------

// J sub-pixels of one low-res pixel, with their weights [kernel²][sub-pixels]; the window begins at `slice`.
template <Work WORK, int S, int J>
static inline void work_on_pixel(
    const Call& call, const Sizes& sizes, float* slice, const float* weights, float* const* subpixels
) {
    constexpr int MOST = LANES == 16 ? 4 : 2, V = S / LANES < MOST ? S / LANES : MOST;  // vectors at a time
    const int64_t step = call.dilation * S, down = sizes.row * step;
    for (int c = 0; c < S; c += V * LANES) {
        Vector y[J][V];
        for (int j = 0; j < J; j++)
            for (int v = 0; v < V; v++) y[j][v] = WORK == SUM ? Vector{} : load(subpixels[j] + c + v * LANES);
        const float* weight = weights;
        for (int64_t i = 0; i < call.kernel; i++) {
            float* at = slice + i * down + c;
            for (int64_t k = 0; k < call.kernel; k++, at += step, weight += sizes.subpixels) {
                if (WORK == SUM) {
                    Vector x[V];
                    for (int v = 0; v < V; v++) x[v] = load(at + v * LANES);
                    for (int j = 0; j < J; j++)
                        for (int v = 0; v < V; v++) y[j][v] += weight[j] * x[v];
                } else {
                    for (int v = 0; v < V; v++) {
                        Vector x = load(at + v * LANES);
                        for (int j = 0; j < J; j++) x += weight[j] * y[j][v];
                        store(at + v * LANES, x);
                    }
                }
            }
        }
        if (WORK == SUM)
            for (int j = 0; j < J; j++)
                for (int v = 0; v < V; v++) store(subpixels[j] + c + v * LANES, y[j][v]);
    }
}

template <Work WORK, int S> static void run_slice(const Call& call, int64_t map, int64_t first, float* memory) {
    const Sizes sizes = sizes_of(call);
    const int64_t image = map / call.groups, channel = map % call.groups * call.channels + first;
    const int64_t channels = call.channels - first < S ? call.channels - first : S;
    const int64_t rows = call.height + 2 * sizes.ring;
    float* slice = memory;
    float* tile = slice + rows * sizes.row * S;
    float* weights = tile + BLOCK * sizes.subpixels * S;
    if (WORK == SUM) read_rows(call, sizes, image, channel, channels, 0, rows, slice, S);
    else memset(slice, 0, rows * sizes.row * S * sizeof(float));

    for (int64_t h = 0; h < call.height; h++)
        for (int64_t w = 0; w < call.width; w += BLOCK) {
            const int64_t count = call.width - w < BLOCK ? call.width - w : BLOCK;
            read(map_of_kernels(call, sizes), map, 0, sizes.taps, h * call.width + w, count, weights, sizes.padded_taps);
            if (WORK == SPREAD) read_y(call, image, channel, channels, h, w, count, tile, S);
            for (int64_t p = 0; p < count; p++) {
                float* at = slice + (h * sizes.row + w + p) * S;
                const float* weight = weights + p * sizes.padded_taps;
                const int64_t together = sizes.subpixels % MOST_SUBPIXELS ? 1 : MOST_SUBPIXELS;
                for (int64_t j = 0; j < sizes.subpixels; j += together) {
                    float* subpixels[MOST_SUBPIXELS];
                    for (int64_t i = 0; i < together; i++)
                        subpixels[i] = tile + place_in_tile(call, count, p, j + i) * S;
                    if (together == 1) work_on_pixel<WORK, S, 1>(call, sizes, at, weight + j, subpixels);
                    else work_on_pixel<WORK, S, MOST_SUBPIXELS>(call, sizes, at, weight + j, subpixels);
                }
            }
            if (WORK == SUM) write_y(call, image, channel, channels, h, w, count, tile, S);
        }

    if (WORK == SPREAD) {
        const int64_t zeros = sizes.ring - call.edge, width = call.width + 2 * call.edge;
        for (int64_t y = 0; y < call.height + 2 * call.edge; y++)
            write(call.x, image, channel, channels, y * width, width, slice + ((y + zeros) * sizes.row + zeros) * S, S);
    }
}

template <Work WORK> static int run_slices(const Call* call, int64_t threads) {
    const Sizes sizes = sizes_of(*call);
    const int64_t S = call->channels > 32 ? 64 : call->channels > 16 ? 32 : 16, slices = (call->channels + S - 1) / S;
    const auto task = [=](int64_t index, float* memory) {
        const int64_t map = index / slices, first = index % slices * S;
        if (S == 64) run_slice<WORK, 64>(*call, map, first, memory);
        else if (S == 32) run_slice<WORK, 32>(*call, map, first, memory);
        else run_slice<WORK, 16>(*call, map, first, memory);
    };
    const int64_t pixels = (call->height + 2 * sizes.ring) * sizes.row + BLOCK * sizes.subpixels;
    const size_t bytes = (pixels * S + BLOCK * sizes.padded_taps) * sizeof(float);
    return run_tasks(task, call->maps * slices, bytes, threads);
}

// --- score: a task is a band of rows of one map, with all channels --------------------------------------------------

constexpr int BAND = 8;

// The products of J sub-pixels with T pixels of x, each a vector that has to be summed: to `products` [T][sub-pixels].
template <int T, int J>
static inline void products_of(
    const float* x, int64_t step, float* const* subpixels, int64_t S, float* products, int64_t subpixel_count
) {
    Vector sum[T][J] = {};
    for (int64_t c = 0; c < S; c += LANES) {
        Vector y[J];
        for (int j = 0; j < J; j++) y[j] = load(subpixels[j] + c);
        for (int t = 0; t < T; t++) {
            const Vector value = load(x + t * step + c);
            for (int j = 0; j < J; j++) sum[t][j] += y[j] * value;
        }
    }
    for (int t = 0; t < T; t++)
        for (int j = 0; j < J; j++) store(products + (t * subpixel_count + j) * LANES, sum[t][j]);
}

template <int T, int J>
static void score_pixel(const Call& call, const Sizes& sizes, const float* x, const float* tile, int64_t count, int64_t p, float* products, int64_t S) {
    const int64_t step = call.dilation * S, down = sizes.row * step;
    for (int64_t j = 0; j < sizes.subpixels; j += J) {
        float* subpixels[J];
        for (int64_t i = 0; i < J; i++) subpixels[i] = (float*)tile + place_in_tile(call, count, p, j + i) * S;
        for (int64_t i = 0; i < call.kernel; i++)
            for (int64_t k = 0; k < call.kernel; k += T) {
                float* to = products + ((i * call.kernel + k) * sizes.subpixels + j) * LANES;
                products_of<T, J>(x + i * down + k * step, step, subpixels, S, to, sizes.subpixels);
            }
    }
}

template <int T, int J> static void score_band(const Call& call, int64_t map, int64_t first, float* memory) {
    const Sizes sizes = sizes_of(call);
    const int64_t image = map / call.groups, channel = map % call.groups * call.channels, S = rounded(call.channels);
    const int64_t rows = call.height - first < BAND ? call.height - first : BAND;
    float* slice = memory;
    float* tile = slice + (BAND + 2 * sizes.ring) * sizes.row * S;
    float* products = tile + BLOCK * sizes.subpixels * S;
    float* scores = products + sizes.padded_taps * LANES;
    memset(products, 0, sizes.padded_taps * LANES * sizeof(float));
    read_rows(call, sizes, image, channel, call.channels, first, rows + 2 * sizes.ring, slice, S);
    for (int64_t h = 0; h < rows; h++)
        for (int64_t w = 0; w < call.width; w += BLOCK) {
            const int64_t count = call.width - w < BLOCK ? call.width - w : BLOCK;
            read_y(call, image, channel, call.channels, first + h, w, count, tile, S);
            for (int64_t p = 0; p < count; p++) {
                score_pixel<T, J>(call, sizes, slice + (h * sizes.row + w + p) * S, tile, count, p, products, S);
                for (int64_t k = 0; k < sizes.padded_taps; k += LANES)
                    store(scores + p * sizes.padded_taps + k, sums(products + k * LANES));
            }
            write(map_of_kernels(call, sizes), map, 0, sizes.taps, (first + h) * call.width + w, count, scores, sizes.padded_taps);
        }
}

template <int T> static int score_bands(const Call* call, int64_t threads) {
    const Sizes sizes = sizes_of(*call);
    const int64_t bands = (call->height + BAND - 1) / BAND;
    const auto task = [=](int64_t index, float* memory) {
        const int64_t map = index / bands, first = index % bands * BAND;
        if (sizes.subpixels % MOST_SUBPIXELS) score_band<T, 1>(*call, map, first, memory);
        else score_band<T, MOST_SUBPIXELS>(*call, map, first, memory);
    };
    const int64_t pixels = (BAND + 2 * sizes.ring) * sizes.row + BLOCK * sizes.subpixels;
    const size_t bytes = (pixels * rounded(call->channels) + (LANES + BLOCK) * sizes.padded_taps) * sizeof(float);
    return run_tasks(task, call->maps * bands, bytes, threads);
}

// They return 0, or 1 if there was no memory.
extern "C" {
int sum_windows(const Call* call, int64_t threads) { return run_slices<SUM>(call, threads); }
int spread_windows(const Call* call, int64_t threads) { return run_slices<SPREAD>(call, threads); }
int score_windows(const Call* call, int64_t threads) {
    if (call->kernel == 5) return score_bands<5>(call, threads);
    return call->kernel == 3 ? score_bands<3>(call, threads) : score_bands<1>(call, threads);
}
}
