// The primitives of src/kernels/cuda/primitives.cuh in plain C++: what each means is said there. They also check what a
// GPU demands: alignment, addresses within shared memory, whole warps.

#pragma once

#include "device.h"

typedef unsigned short u16;
typedef unsigned int u32;

namespace cuda_on_cpu {
// The block's shared memory, by a pointer of which the compiler knows nothing: by its name, it would pass for another
// array than a kernel's `shared`.
inline char *shared_memory() {
    char *start = cuda_on_cpu_shared;
    asm("" : "+r"(start));
    return start;
}
inline char *shared_bytes(const char *name, u32 at, u32 size, Place place) {
    const u32 all = cuda_on_cpu_runtime->shared_bytes;
    if (at % size || at + size > all)
        cuda_on_cpu_runtime->fail(place, "%s of %u bytes at %u of %u bytes of shared memory", name, size, at, all);
    return shared_memory() + at;
}
inline float as_float(u32 x) { return bits<float>(x); }
// For what runs at every product and is beyond suspicion.
#define CUDA_ON_CPU_UNCHECKED __attribute__((no_sanitize("undefined")))
}  // namespace cuda_on_cpu

inline u32 shared_address(const void *at, CUDA_ON_CPU_PLACE) {
    const size_t offset = (size_t)at - (size_t)cuda_on_cpu_shared;
    if (offset > cuda_on_cpu::SHARED_BYTES)
        cuda_on_cpu_runtime->fail(place, "shared_address of %p, which is not shared memory", at);
    return (u32)offset;
}

inline u32 load_shared(u32 at, CUDA_ON_CPU_PLACE) {
    return *(u32 *)cuda_on_cpu::shared_bytes("load_shared", at, 4, place);
}
inline void store_shared(u32 at, u32 x, CUDA_ON_CPU_PLACE) {
    *(u32 *)cuda_on_cpu::shared_bytes("store_shared", at, 4, place) = x;
}
inline void store_shared(u32 at, u16 x, CUDA_ON_CPU_PLACE) {
    *(u16 *)cuda_on_cpu::shared_bytes("store_shared", at, 2, place) = x;
}

namespace cuda_on_cpu {
template <class X> struct Broadcast { X *sum; const X *from; int lane; X x; };
}  // namespace cuda_on_cpu
template <int N, class X> inline void add_broadcast(X (&sum)[N], const X *from, int lane, X x, CUDA_ON_CPU_PLACE) {
    using Mine = cuda_on_cpu::Broadcast<X>;
    Mine mine = {sum, from, lane, x};
    auto operation = [](Mine *const *lanes) {
        for (int i = 0; i < 32; i++)
            for (int r = 0; r < N; r++) lanes[i]->sum[r] += lanes[lanes[i]->lane]->from[r] * lanes[i]->x;
    };
    cuda_on_cpu::together("add_broadcast", mine, operation, ~0u, true, place);
}

inline void copy_async_16(u32 to, const void *from, int bytes, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->copy_async(cuda_on_cpu::shared_memory() + to, from, 16, (u32)bytes, place);
}
inline void copy_async_4(u32 to, const void *from, int bytes, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->copy_async(cuda_on_cpu::shared_memory() + to, from, 4, (u32)bytes, place);
}
inline void copy_async_commit() { cuda_on_cpu_runtime->copy_async_commit(); }
template <int PENDING> inline void copy_async_wait() { cuda_on_cpu_runtime->copy_async_wait(PENDING); }

namespace cuda_on_cpu {
struct Matrices { u32 *r; const char *row; };
template <bool TRANSPOSED> inline void load_matrices(const char *name, u32 *r, u32 at, Place place) {
    Matrices mine = {r, shared_bytes(name, at, 16, place)};
    auto operation = [](Matrices *const *lanes) CUDA_ON_CPU_UNCHECKED {
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++) {
                u16 pair[2];
                for (int j = 0; j < 2; j++) {
                    const int row = TRANSPOSED ? l % 4 * 2 + j : l / 4, column = TRANSPOSED ? l / 4 : l % 4 * 2 + j;
                    pair[j] = ((const u16 *)lanes[8 * i + row]->row)[column];
                }
                lanes[l]->r[i] = pair[0] | (u32)pair[1] << 16;
            }
    };
    together(name, mine, operation, ~0u, true, place);
}

struct Product { float *d; const u32 *a; u32 b[2]; };
// D += A B from float matrices A 16 × K, and B K × 8.
template <int K>
CUDA_ON_CPU_UNCHECKED inline void add_product(Product *const *lanes, const float (*a)[K], const float (*b)[8]) {
    for (int row = 0; row < 16; row++) {
        float sum[8] = {};
        for (int k = 0; k < K; k++)
            for (int column = 0; column < 8; column++) sum[column] += a[row][k] * b[k][column];
        for (int column = 0; column < 8; column++)
            lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2] += sum[column];
    }
}
}  // namespace cuda_on_cpu

inline void load_matrices(u32 *r, u32 at, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::load_matrices<false>("load_matrices", r, at, place);
}
inline void load_matrices_transposed(u32 *r, u32 at, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::load_matrices<true>("load_matrices_transposed", r, at, place);
}

inline void mma_bf16(float *d, const u32 *a, u32 b0, u32 b1, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::Product mine = {d, a, {b0, b1}};
    auto operation = [](cuda_on_cpu::Product *const *lanes) CUDA_ON_CPU_UNCHECKED {
        float a[16][16], b[16][8];
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 2; j++) {  // the lower half of a register, then the upper
                    const int g = l / 4, t = l % 4, half = 16 * (1 - j), column = 2 * t + j;
                    a[g + i % 2 * 8][column + i / 2 * 8] = cuda_on_cpu::as_float(lanes[l]->a[i] << half & 0xFFFF0000);
                    if (i < 2) b[column + i * 8][g] = cuda_on_cpu::as_float(lanes[l]->b[i] << half & 0xFFFF0000);
                }
        cuda_on_cpu::add_product<16>(lanes, a, b);
    };
    cuda_on_cpu::together("mma_bf16", mine, operation, ~0u, true, place);
}
inline void mma_tf32(float *d, const u32 *a, u32 b0, u32 b1, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::Product mine = {d, a, {b0, b1}};
    auto operation = [](cuda_on_cpu::Product *const *lanes) CUDA_ON_CPU_UNCHECKED {
        float a[16][8], b[8][8];
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++) {
                const int g = l / 4, t = l % 4;
                a[g + i % 2 * 8][t + i / 2 * 4] = cuda_on_cpu::as_float(lanes[l]->a[i] & 0xFFFFE000);
                if (i < 2) b[t + i * 4][g] = cuda_on_cpu::as_float(lanes[l]->b[i] & 0xFFFFE000);
            }
        cuda_on_cpu::add_product<8>(lanes, a, b);
    };
    cuda_on_cpu::together("mma_tf32", mine, operation, ~0u, true, place);
}

inline void barrier_init(u32 at, u32 count, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->mbarrier_init(cuda_on_cpu::shared_bytes("barrier_init", at, 8, place), count, place);
}
inline void barrier_init_done() {}
inline void barrier_arrive(u32 at, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->mbarrier_arrive(cuda_on_cpu::shared_bytes("barrier_arrive", at, 8, place), 0, place);
}
inline void barrier_arrive_and_expect(u32 at, u32 bytes, CUDA_ON_CPU_PLACE) {
    char *barrier = cuda_on_cpu::shared_bytes("barrier_arrive_and_expect", at, 8, place);
    cuda_on_cpu_runtime->mbarrier_arrive(barrier, bytes, place);
}
inline void barrier_wait(u32 at, u32 parity, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->mbarrier_wait(cuda_on_cpu::shared_bytes("barrier_wait", at, 8, place), parity, place);
}
template <u32 ID, u32 THREADS> inline void barrier_of(CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->barrier_of(ID, THREADS, place);
}

using cuda_on_cpu::TensorMap;
template <u32> inline void fewer_registers() {}
template <u32> inline void more_registers() {}
inline void prefetch_map(const TensorMap &) {}
inline void prefetch(const void *at, u32 bytes, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu_runtime->prefetch(at, bytes, place);
}
inline void copy_box(u32 to, const TensorMap &of, u32 row, u32 column, u32 barrier, CUDA_ON_CPU_PLACE) {
    char *at = cuda_on_cpu::shared_bytes("copy_box", barrier, 8, place);
    cuda_on_cpu_runtime->copy_box(cuda_on_cpu::shared_memory() + to, of, row, column, at, place);
}

namespace cuda_on_cpu {
// A warp's part of a product of four warps. It is done when it is waited for; until then its sums are out of reach, what
// they are in is 0xFF, and its operands must not change: neither arrive nor be overwritten.
struct Multiply {
    u32 n, a, b;
    bool a_along, b_along;
    Place place;
    u32 group;
    unsigned long long seen;  // a hash of the operands
};
struct Flight {  // of one warp
    enum { MOST = 16 };
    unsigned long long block;  // whose it is
    bool begun;
    u32 count, group;
    Multiply queue[MOST];
    float *d[32], sums[32][128];
};
inline Flight &flight() {
    static Flight flights[32];
    Flight &mine = flights[cuda_on_cpu_runtime->thread / 32];
    if (mine.block != cuda_on_cpu_runtime->block) mine.block = cuda_on_cpu_runtime->block, mine.count = mine.begun = 0;
    return mine;
}

CUDA_ON_CPU_UNCHECKED inline float element(u32 at, bool along, u32 line, u32 k) {
    at += along ? line * 128 + k * 2 : line / 64 * 8192 + k * 128 + line % 64 * 2;
    return as_float((u32) * (const u16 *)(shared_memory() + (at ^ (at >> 7 & 7) << 4)) << 16);
}
struct Operands { float a[16][16], b[16][256]; };
// What the operands hold now, and a hash of it.
CUDA_ON_CPU_UNCHECKED inline unsigned long long read(const Multiply &what, Operands &to) {
    unsigned long long hash = 0;
    auto read = [&](float &to, u32 at, bool along, u32 line, u32 k) {
        to = element(at, along, line, k);
        hash = (hash ^ bits<u32>(to)) * 0x9E3779B97F4A7C15 >> 1;
    };
    const u32 first = cuda_on_cpu_runtime->thread / 32 % 4 * 16;
    for (u32 k = 0; k < 16; k++) {
        for (u32 row = 0; row < 16; row++) read(to.a[row][k], what.a, what.a_along, first + row, k);
        for (u32 column = 0; column < what.n; column++) read(to.b[k][column], what.b, what.b_along, column, k);
    }
    return hash;
}
CUDA_ON_CPU_UNCHECKED inline void perform(const Multiply &what, float (*sums)[128]) {
    static Operands operands;
    auto &[a, b] = operands;
    if (read(what, operands) != what.seen)
        cuda_on_cpu_runtime->fail(what.place, "the operands of multiply_boxes changed before it was waited for");
    for (u32 row = 0; row < 16; row++)
        for (u32 i = 0; i < what.n; i += 8) {
            float sum[8] = {};
            for (u32 k = 0; k < 16; k++)
                for (u32 column = 0; column < 8; column++) sum[column] += a[row][k] * b[k][i + column];
            for (u32 column = 0; column < 8; column++)
                sums[row % 8 * 4 + column / 2][i / 2 + row / 8 * 2 + column % 2] += sum[column];
        }
}

struct MultiplyCall { float *d; Multiply what; };
inline void begin_multiply(float *d, const Multiply &what, Place place) {
    const u32 all = cuda_on_cpu_runtime->shared_bytes;
    auto end = [](u32 at, bool along, u32 lines) { return at + (along ? lines * 128 - 96 : lines / 64 * 8192 - 6144); };
    if (!flight().begun || flight().count == Flight::MOST)
        cuda_on_cpu_runtime->fail(place, "multiply_boxes without multiply_begin, or too many of them");
    if (what.a % 16 || what.b % 16 || end(what.a, what.a_along, 64) > all || end(what.b, what.b_along, what.n) > all)
        cuda_on_cpu_runtime->fail(place, "multiply_boxes at %u and %u of %u bytes", what.a, what.b, all);
    MultiplyCall mine = {d, what};
    auto operation = [](MultiplyCall *const *lanes) CUDA_ON_CPU_UNCHECKED {
        Flight &flight = cuda_on_cpu::flight();
        for (u32 l = 0; l < 32; l++) {
            const size_t size = lanes[l]->what.n / 2 * sizeof(float);
            if (!flight.count) memcpy(flight.sums[l], flight.d[l] = lanes[l]->d, size);
            memset(flight.d[l], 0xFF, size);
        }
        static Operands operands;
        Multiply &last = flight.queue[flight.count++] = lanes[0]->what;
        last.group = flight.group, last.seen = read(last, operands);
    };
    together("multiply_boxes", mine, operation, ~0u, true, place);
}
template <u32 PENDING> inline void end_multiply(Place place) {
    int nothing = 0;
    auto operation = [](int *const *) CUDA_ON_CPU_UNCHECKED {
        Flight &flight = cuda_on_cpu::flight();
        u32 done = 0, n = 0;
        for (; done < flight.count && flight.queue[done].group + PENDING < flight.group; done++)
            perform(flight.queue[done], flight.sums), n = flight.queue[done].n;
        for (u32 i = done; i < flight.count; i++) flight.queue[i - done] = flight.queue[i];
        flight.count -= done, flight.begun = false;
        for (u32 l = 0; l < 32 && done && !flight.count; l++) memcpy(flight.d[l], flight.sums[l], n / 2 * sizeof(float));
    };
    together("multiply_wait", nothing, operation, ~0u, true, place);
}
}  // namespace cuda_on_cpu

template <u32 N, bool A_ALONG, bool B_ALONG>
inline void multiply_boxes(float *d, u32 a, u32 b, CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::begin_multiply(d, {N, a, b, A_ALONG, B_ALONG, place, 0, 0}, place);
}
inline void multiply_begin(CUDA_ON_CPU_PLACE) {
    int nothing = 0;
    auto operation = [](int *const *) { cuda_on_cpu::flight().begun = true; };
    cuda_on_cpu::together("multiply_begin", nothing, operation, ~0u, true, place);
}
inline void multiply_commit(CUDA_ON_CPU_PLACE) {
    int nothing = 0;
    auto operation = [](int *const *) { cuda_on_cpu::flight().group++; };
    cuda_on_cpu::together("multiply_commit", nothing, operation, ~0u, true, place);
}
template <int PENDING, u32 N> inline void multiply_wait(float (&)[N], CUDA_ON_CPU_PLACE) {
    cuda_on_cpu::end_multiply<PENDING>(place);
}

inline u32 round_tf32(float x) {
    const u32 y = __float_as_uint(x);
    return isnan(x) ? 0x7FFFFFFF : isinf(x) ? y : (y + 0x1000) & 0xFFFFE000;
}
inline u32 pack_bf16(float lo, float hi) {
    auto round = [](float x) {
        const u32 y = __float_as_uint(x);
        return isnan(x) ? 0x7FFFu : (y + 0x7FFF + (y >> 16 & 1)) >> 16;
    };
    return round(lo) | round(hi) << 16;
}
inline float exp2_fast(float x) { return exp2f(x); }
