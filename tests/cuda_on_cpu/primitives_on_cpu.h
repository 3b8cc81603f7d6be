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
