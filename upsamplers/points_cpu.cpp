// Bilinear reads at any positions, for CPUs: sums, scores and their gradients. points_cpu.py compiles and calls this.
//
// A map is cut into slices of up to SLICE channels. A slice is copied to [H + 4][W + 4][SLICE] float32: all channels of
// a pixel side by side, two pixels of zeros around the map, so that no read needs a condition. It stays in the cache
// while the output pixels are computed in blocks, a block at a time for the whole slice.
// One slice of one map is one task. No two tasks write to the same place, and sums over slices are added in their
// order. So results do not depend on the number of threads.

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int SLICE = 32, BLOCK = 64, RING = 2;

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t LooseHalves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static inline Vector load(const float* from) { return *(const Loose*)from; }
static inline void store(float* to, Vector value) { *(Loose*)to = value; }
static inline Vector all(float value) { return Vector{} + value; }

// --- maps: float32 or bfloat16, contiguous or channels last ---------------------------------------------------------

struct Map {
    void* data;
    int64_t image, channel, pixel;  // strides; that of channels or that of pixels is 1
    int64_t is_bfloat16;
};

static inline float widen(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t narrow(float value) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline Vector load_as(const float* from, int64_t count) {
    if (count >= LANES) return load(from);
    Vector value = {};
    for (int i = 0; i < count; i++) value[i] = from[i];
    return value;
}

static inline Vector load_as(const uint16_t* from, int64_t count) {
    if (count >= LANES) return (Vector)(__builtin_convertvector(*(const LooseHalves*)from, Bits) << 16);
    Vector value = {};
    for (int i = 0; i < count; i++) value[i] = widen(from[i]);
    return value;
}

// Past the cache, for the output: it is larger than the cache, and need not be read before it is written.
static inline void stream(float* to, Vector value) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_nontemporal_store)
    if ((uintptr_t)to % sizeof(Vector) == 0) return __builtin_nontemporal_store(value, (Vector*)to);
#elif defined(__AVX512F__)
    if ((uintptr_t)to % sizeof(Vector) == 0) return __builtin_ia32_movntps512(to, value);
#elif defined(__AVX__)
    if ((uintptr_t)to % sizeof(Vector) == 0) return __builtin_ia32_movntps256(to, value);
#elif defined(__SSE__)
    if ((uintptr_t)to % sizeof(Vector) == 0) return __builtin_ia32_movntps(to, value);
#endif
#endif
    store(to, value);
}

static inline void store_as(float* to, Vector value, int64_t count) {
    if (count >= LANES) return stream(to, value);
    for (int i = 0; i < count; i++) to[i] = value[i];
}

static inline void store_as(uint16_t* to, Vector value, int64_t count) {
    if (count < LANES) {
        for (int i = 0; i < count; i++) to[i] = narrow(value[i]);
        return;
    }
    Bits bits = (Bits)value;
    Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Bits is_nan = (Bits)(value != value);
    *(LooseHalves*)to = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), Halves);
}

template <int... I> struct Lanes {};
template <int N, int... I> struct First : First<N - 1, N - 1, I...> {};
template <int... I> struct First<0, I...> { typedef Lanes<I...> type; };

// a0 b0 a1 b1 ... of the first halves of two vectors, and of the second halves.
template <int... I> static inline Vector lower(Vector a, Vector b, Lanes<I...>) {
    return __builtin_shufflevector(a, b, (I / 2 + I % 2 * LANES)...);
}
template <int... I> static inline Vector upper(Vector a, Vector b, Lanes<I...>) {
    return __builtin_shufflevector(a, b, (LANES / 2 + I / 2 + I % 2 * LANES)...);
}
static inline Vector lower(Vector a, Vector b) { return lower(a, b, First<LANES>::type()); }
static inline Vector upper(Vector a, Vector b) { return upper(a, b, First<LANES>::type()); }

static inline void transpose(Vector* rows) {
    for (int round = 1; round < LANES; round *= 2) {
        Vector next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = lower(rows[i], rows[i + LANES / 2]);
            next[2 * i + 1] = upper(rows[i], rows[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; i++) rows[i] = next[i];
    }
}

// The sums of LANES vectors, as one vector.
static inline Vector sums(const float* rows) {
    Vector partial[LANES];
    for (int i = 0; i < LANES; i++) partial[i] = load(rows + i * LANES);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            partial[i] = lower(partial[i], partial[i + half]) + upper(partial[i], partial[i + half]);
    return partial[0];
}

// `pixels` pixels of `channels` channels, to tile [pixels][S]; missing channels are 0.
template <int S, class T>
static void read_as(const T* from, const Map& map, int64_t channels, int64_t pixels, float* tile) {
    if (map.channel == 1) {
        for (int64_t p = 0; p < pixels; p++)
            for (int c = 0; c < S; c += LANES)
                store(tile + p * S + c, load_as(from + p * map.pixel + c, channels - c));
        return;
    }
    for (int64_t p = 0; p < pixels; p += LANES) {
        int64_t count = pixels - p < LANES ? pixels - p : LANES;
        for (int c = 0; c < S; c += LANES) {
            Vector rows[LANES];
            for (int i = 0; i < LANES; i++)
                rows[i] = c + i < channels ? load_as(from + (c + i) * map.channel + p, count) : Vector{};
            transpose(rows);
            for (int i = 0; i < count; i++) store(tile + (p + i) * S + c, rows[i]);
        }
    }
}

template <int S, class T>
static void write_as(T* to, const Map& map, int64_t channels, int64_t pixels, const float* tile) {
    if (map.channel == 1) {
        for (int64_t p = 0; p < pixels; p++)
            for (int c = 0; c < S; c += LANES)
                store_as(to + p * map.pixel + c, load(tile + p * S + c), channels - c);
        return;
    }
    for (int64_t p = 0; p < pixels; p += LANES) {
        int64_t count = pixels - p < LANES ? pixels - p : LANES;
        for (int c = 0; c < S; c += LANES) {
            Vector rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = i < count ? load(tile + (p + i) * S + c) : Vector{};
            transpose(rows);
            for (int i = 0; i < LANES && c + i < channels; i++)
                store_as(to + (c + i) * map.channel + p, rows[i], count);
        }
    }
}

template <int S>
static void read(const Map& map, int64_t image, int64_t channel, int64_t channels, int64_t p, int64_t pixels, float* tile) {
    int64_t at = image * map.image + channel * map.channel + p * map.pixel;
    if (map.is_bfloat16) read_as<S>((const uint16_t*)map.data + at, map, channels, pixels, tile);
    else read_as<S>((const float*)map.data + at, map, channels, pixels, tile);
}

template <int S>
static void write(const Map& map, int64_t image, int64_t channel, int64_t channels, int64_t p, int64_t pixels, const float* tile) {
    int64_t at = image * map.image + channel * map.channel + p * map.pixel;
    if (map.is_bfloat16) write_as<S>((uint16_t*)map.data + at, map, channels, pixels, tile);
    else write_as<S>((float*)map.data + at, map, channels, pixels, tile);
}

// --- one call -------------------------------------------------------------------------------------------------------

struct Call {
    int64_t maps, groups, channels, height, width;  // maps: images x groups; channels: of one group
    int64_t points, pixels;                         // n points of each of N output pixels
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
    float a[BLOCK], b[BLOCK];                // how far to the right of it and below
    float poison_x[BLOCK], poison_y[BLOCK];  // NaN where the position is not finite, else 0
    float free_x[BLOCK], free_y[BLOCK];      // 0 where the position is clamped, else 1
    float weight[BLOCK];
};

static int64_t position(const Call& call, int64_t map, int64_t point, int64_t p) {
    const int64_t image = map / call.groups, group = map % call.groups;
    return image * call.of_image + group * call.of_group + point * call.of_point + p * call.of_pixel;
}

static void find_places(const Call& call, int64_t map, int64_t point, int64_t p, int64_t count, Places& places) {
    const float* positions = call.positions + position(call, map, point, p);
    const float* weights = call.weights ? call.weights + (map * call.points + point) * call.pixels + p : nullptr;
    const float last_x = call.width - 1, last_y = call.height - 1;
    // Beyond a pixel and a half outside the map all four pixels around a position are zeros.
    const float margin = call.border ? 0.0f : 1.5f;
    const int32_t row_length = call.width + 2 * RING;
    float columns[BLOCK] = {}, rows[BLOCK] = {};
    if (call.of_pixel == 1) {
        memcpy(columns, positions, count * sizeof(float));
        memcpy(rows, positions + call.of_axis, count * sizeof(float));
    } else {
        for (int i = 0; i < count; i++) columns[i] = positions[2 * i], rows[i] = positions[2 * i + 1];
    }
    for (int i = 0; i < BLOCK; i++) {
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
        places.index[i] = ((int32_t)top + RING) * row_length + (int32_t)left + RING;
    }
    for (int i = 0; i < BLOCK; i++) places.weight[i] = weights && i < count ? weights[i] : 1.0f;
}

struct Scratch {
    float* slice;  // [H + 4][W + 4][SLICE]
    float* grad;   // the same, or null
    float tile[BLOCK * SLICE] __attribute__((aligned(64)));
    float along_x[BLOCK * LANES] __attribute__((aligned(64)));
    float along_y[BLOCK * LANES] __attribute__((aligned(64)));
    float value[BLOCK * LANES] __attribute__((aligned(64)));
};

template <int S> static void sum_block(const Call& call, const Places& places, int64_t count, bool is_first, Scratch& scratch) {
    const int64_t row = (call.width + 2 * RING) * S;
    for (int64_t p = 0; p < count; p++) {
        const float* at = scratch.slice + (int64_t)places.index[p] * S;
        float* to = scratch.tile + p * S;
        const float a = places.a[p], b = places.b[p], w = places.weight[p];
        const float p00 = w * (1 - b) * (1 - a), p01 = w * (1 - b) * a, p10 = w * b * (1 - a), p11 = w * b * a;
        const float poison = places.poison_x[p] + places.poison_y[p];
        for (int c = 0; c < S; c += LANES) {
            Vector sum = is_first ? all(poison) : load(to + c) + poison;
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
        const float a = places.a[p], b = places.b[p], w = places.weight[p];
        const float p00 = w * (1 - b) * (1 - a), p01 = w * (1 - b) * a, p10 = w * b * (1 - a), p11 = w * b * a;
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
    const int64_t image = map / call.groups, first = slice * SLICE;
    const int64_t channel = map % call.groups * call.channels + first;
    const int64_t channels = call.channels - first < S ? call.channels - first : S;
    const int64_t row = call.width + 2 * RING, size = (call.height + 2 * RING) * row * S;
    const size_t margin = RING * row * S, side = RING * S;
    memset(scratch.slice, 0, margin * sizeof(float));
    memset(scratch.slice + size - margin, 0, margin * sizeof(float));
    for (int64_t y = 0; y < call.height; y++) {
        float* to = scratch.slice + ((y + RING) * row + RING) * S;
        memset(to - side, 0, side * sizeof(float));
        read<S>(call.x, image, channel, channels, y * call.width, call.width, to);
        memset(to + call.width * S, 0, side * sizeof(float));
    }
    if (call.grad_x.data) memset(scratch.grad, 0, size * sizeof(float));

    Places places;
    for (int64_t p = 0; p < call.pixels; p += BLOCK) {
        const int64_t count = call.pixels - p < BLOCK ? call.pixels - p : BLOCK;
        if (work == SCORE) read<S>(call.y, image, channel, channels, p, count, scratch.tile);
        for (int64_t point = 0; point < call.points; point++) {
            find_places(call, map, point, p, count, places);
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
        if (work == SUM) write<S>(call.y, image, channel, channels, p, count, scratch.tile);
    }
    if (call.grad_x.data)
        for (int64_t y = 0; y < call.height; y++)
            write<S>(call.grad_x, image, channel, channels, y * call.width, call.width, scratch.grad + ((y + RING) * row + RING) * S);
}

// --- threads --------------------------------------------------------------------------------------------------------

struct Pool {
    const Call* call;
    Work work;
    int64_t tasks, slices, next, done;
};

static void* run_tasks(void* pointer) {
    Pool& pool = *(Pool*)pointer;
    const Call& call = *pool.call;
    const size_t size = (call.height + 2 * RING) * (call.width + 2 * RING) * SLICE * sizeof(float);
    void* memory = nullptr;
    const size_t header = (sizeof(Scratch) + 63) / 64 * 64, rounded = (size + 63) / 64 * 64;
    if (posix_memalign(&memory, 64, header + rounded * (call.grad_x.data ? 2 : 1))) return nullptr;
    Scratch& scratch = *(Scratch*)memory;
    scratch.slice = (float*)((char*)memory + header);
    scratch.grad = (float*)((char*)memory + header + rounded);
    for (;;) {
        const int64_t task = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED);
        if (task >= pool.tasks) break;
        const int64_t map = task / pool.slices, slice = task % pool.slices;
        const int64_t left = call.channels - slice * SLICE;
        if (left > 16) run_task<32>(call, pool.work, map, slice, scratch);
        else run_task<16>(call, pool.work, map, slice, scratch);
        __atomic_fetch_add(&pool.done, 1, __ATOMIC_RELAXED);
    }
    free(memory);
#if defined(__SSE__)
    __builtin_ia32_sfence();  // what was streamed is there before the thread ends
#endif
    return nullptr;
}

static int run(const Call* call, Work work, int64_t threads) {
    const int64_t slices = (call->channels + SLICE - 1) / SLICE;
    Pool pool = {call, work, call->maps * slices, slices, 0, 0};
    constexpr int64_t MOST = 256;
    if (threads > MOST) threads = MOST;
    if (threads > pool.tasks) threads = pool.tasks;
    // Threads that cannot be started, or get no memory, leave more to the others.
    pthread_t others[MOST];
    int64_t started = 0;
    while (started < threads - 1 && !pthread_create(&others[started], nullptr, run_tasks, &pool)) started++;
    run_tasks(&pool);
    for (int64_t i = 0; i < started; i++) pthread_join(others[i], nullptr);
    return pool.done < pool.tasks;
}

// Both return 0, or 1 if there was no memory.
extern "C" {
int sum_points(const Call* call, int64_t threads) { return run(call, SUM, threads); }
int score_points(const Call* call, int64_t threads) { return run(call, SCORE, threads); }
}
