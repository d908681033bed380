// What the compiled code for CPUs shares: vectors, maps in any layout read into tiles and written from them, and threads.

#pragma once
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

// `pixels` pixels of `channels` channels, to tile [pixels][S]; missing channels are 0. S: a multiple of LANES.
template <class T>
static inline void read_as(const T* from, const Map& map, int64_t channels, int64_t pixels, float* tile, int64_t S) {
    if (map.channel == 1) {
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < S; c += LANES)
                store(tile + p * S + c, load_as(from + p * map.pixel + c, channels - c));
        return;
    }
    for (int64_t p = 0; p < pixels; p += LANES) {
        int64_t count = pixels - p < LANES ? pixels - p : LANES;
        for (int64_t c = 0; c < S; c += LANES) {
            Vector rows[LANES];
            for (int i = 0; i < LANES; i++)
                rows[i] = c + i < channels ? load_as(from + (c + i) * map.channel + p, count) : Vector{};
            transpose(rows);
            for (int i = 0; i < count; i++) store(tile + (p + i) * S + c, rows[i]);
        }
    }
}

template <class T>
static inline void write_as(T* to, const Map& map, int64_t channels, int64_t pixels, const float* tile, int64_t S) {
    if (map.channel == 1) {
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < S; c += LANES)
                store_as(to + p * map.pixel + c, load(tile + p * S + c), channels - c);
        return;
    }
    for (int64_t p = 0; p < pixels; p += LANES) {
        int64_t count = pixels - p < LANES ? pixels - p : LANES;
        for (int64_t c = 0; c < S; c += LANES) {
            Vector rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = i < count ? load(tile + (p + i) * S + c) : Vector{};
            transpose(rows);
            for (int i = 0; i < LANES && c + i < channels; i++)
                store_as(to + (c + i) * map.channel + p, rows[i], count);
        }
    }
}

__attribute__((noinline)) static void read(
    const Map& map, int64_t image, int64_t channel, int64_t channels, int64_t p, int64_t pixels, float* tile, int64_t S
) {
    const int64_t at = image * map.image + channel * map.channel + p * map.pixel;
    if (map.is_bfloat16) read_as((const uint16_t*)map.data + at, map, channels, pixels, tile, S);
    else read_as((const float*)map.data + at, map, channels, pixels, tile, S);
}

__attribute__((noinline)) static void write(
    const Map& map, int64_t image, int64_t channel, int64_t channels, int64_t p, int64_t pixels, const float* tile, int64_t S
) {
    const int64_t at = image * map.image + channel * map.channel + p * map.pixel;
    if (map.is_bfloat16) write_as((uint16_t*)map.data + at, map, channels, pixels, tile, S);
    else write_as((float*)map.data + at, map, channels, pixels, tile, S);
}

// --- threads --------------------------------------------------------------------------------------------------------

template <class Task> struct Pool {
    const Task& task;
    int64_t tasks;
    size_t bytes;
    int64_t next, done;

    static void* run(void* pointer) {
        Pool& pool = *(Pool*)pointer;
        void* memory = nullptr;
        if (posix_memalign(&memory, 64, pool.bytes)) return nullptr;
        for (;;) {
            const int64_t index = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED);
            if (index >= pool.tasks) break;
            pool.task(index, (float*)memory);
            __atomic_fetch_add(&pool.done, 1, __ATOMIC_RELAXED);
        }
        free(memory);
#if defined(__SSE__)
        __builtin_ia32_sfence();  // what was streamed is there before the thread ends
#endif
        return nullptr;
    }
};

// Run task(0), task(1), ... in any order, each with `bytes` of memory of its thread. 0, or 1 if there was no memory.
template <class Task> static int run_tasks(const Task& task, int64_t tasks, size_t bytes, int64_t threads) {
    Pool<Task> pool = {task, tasks, bytes, 0, 0};
    constexpr int64_t MOST = 256;
    if (threads > MOST) threads = MOST;
    if (threads > tasks) threads = tasks;
    // Threads that cannot be started, or get no memory, leave more to the others.
    pthread_t others[MOST];
    int64_t started = 0;
    while (started < threads - 1 && !pthread_create(&others[started], nullptr, Pool<Task>::run, &pool)) started++;
    Pool<Task>::run(&pool);
    for (int64_t i = 0; i < started; i++) pthread_join(others[i], nullptr);
    return pool.done < pool.tasks;
}
