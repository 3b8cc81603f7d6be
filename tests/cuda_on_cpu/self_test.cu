// Kernels for self_test.cpp: one for each thing that the emulator must get right, or must find.

extern __shared__ __align__(128) char shared[];

extern "C" __global__ void __launch_bounds__(256) add(const float *a, const float *b, float *sum, int n, float factor) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = a[i] + factor * b[i];
}

struct Pair { const float *from; float *to; };
extern "C" __global__ void copy_pair(const __grid_constant__ Pair pair, u64 n) {
    const u64 first = blockIdx.x * (u64)blockDim.x + threadIdx.x;
    for (u64 i = first; i < n; i += (u64)gridDim.x * blockDim.x) pair.to[i] = pair.from[i];
}

// Where every thread of every block of a 3D grid leaves its number.
extern "C" __global__ void where(u32 *seen) {
    const u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const u32 thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    atomicAdd(&seen[block * blockDim.x * blockDim.y * blockDim.z + thread], 1u + block);
}

// One sum per block.
extern "C" __global__ void block_sum(const float *x, float *sums) {
    float *part = (float *)shared;
    part[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (u32 half = blockDim.x / 2; half; half /= 2) {
#ifndef NO_BARRIER
        __syncthreads();
#endif
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}

// The same by shuffles, for blocks of one warp; and what votes and barriers that count answer.
extern "C" __global__ void warp_sum(const float *x, float *sums, u32 *votes) {
    float sum = x[blockIdx.x * 32 + threadIdx.x];
#pragma unroll
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
    const int l = threadIdx.x;
    const double below = __shfl_up_sync(~0u, (double)l, 1);
    const int above = __shfl_down_sync(~0u, l, 3), ninth = __shfl_sync(~0u, l, 9), third = __shfl_sync(~0u, l, 3, 8);
    const bool odd = l % 2;
    const bool right = below == (l ? l - 1 : 0) && above == (l < 29 ? l + 3 : l) && ninth == 9 &&
                       third == l / 8 * 8 + 3;
    const u32 ballot = __ballot_sync(~0u, right);
    u32 half = 0;
    if (odd) half = __ballot_sync(0xAAAAAAAAu, threadIdx.x > 16);  // each half of the warp for itself
    else half = __ballot_sync(0x55555555u, threadIdx.x > 16);
    const int some = __syncthreads_count(odd), any = __syncthreads_or(l == 5), all = __syncthreads_and(l != 5);
    sums[blockIdx.x * 32 + threadIdx.x] = sum;
    u32 *mine = votes + 4 * threadIdx.x;
    mine[0] = ballot, mine[1] = half, mine[2] = some * 4 + any * 2 + all;
    mine[3] = __any_sync(~0u, threadIdx.x == 31) * 2 + __all_sync(~0u, threadIdx.x < 31);
}

// One warp: D (16 × 8) = A B, A 16 × 16 and B 16 × 8 in bf16, both by rows.
extern "C" __global__ void product_bf16(const u16 *a, const u16 *b, float *d) {
    u16 *tile_a = (u16 *)shared, *tile_b = tile_a + 16 * 16;
    const int l = threadIdx.x, g = l / 4, t = l % 4;
    copy_async_16(shared_address(tile_a + 8 * l), a + 8 * l, 16);
    if (l < 16) copy_async_16(shared_address(tile_b + 8 * l), b + 8 * l, 16);
    copy_async_commit();
#ifndef NO_WAIT
    copy_async_wait<0>();
#endif
    __syncwarp();
    u32 fa[4], fb[4];
    load_matrices(fa, shared_address(tile_a + (l % 16) * 16 + l / 16 * 8));
    load_matrices_transposed(fb, shared_address(tile_b + (l % 16) * 8));
    float sum[4] = {};
    mma_bf16(sum, fa, fb[0], fb[1]);
    d[g * 8 + 2 * t] = sum[0], d[g * 8 + 2 * t + 1] = sum[1];
    d[(g + 8) * 8 + 2 * t] = sum[2], d[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

// One warp: D (16 × 8) += A B, A 16 × 8 and B 8 × 8 as tf32, rounded or cut off.
extern "C" __global__ void product_tf32(const float *a, const float *b, float *d, bool rounded) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto operand = [&](float x) { return rounded ? round_tf32(x) : __float_as_uint(x); };
    float sum[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t], d[(g + 8) * 8 + 2 * t + 1]};
    const float *upper = a + g * 8, *lower = upper + 8 * 8;
    const u32 fa[4] = {operand(upper[t]), operand(lower[t]), operand(upper[t + 4]), operand(lower[t + 4])};
    mma_tf32(sum, fa, operand(b[t * 8 + g]), operand(b[(t + 4) * 8 + g]));
    d[g * 8 + 2 * t] = sum[0], d[g * 8 + 2 * t + 1] = sum[1];
    d[(g + 8) * 8 + 2 * t] = sum[2], d[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

extern "C" __global__ void rounding(const float *x, u32 *tf32, u32 *bf16, float *exp2) {
    const int i = threadIdx.x;
    tf32[i] = round_tf32(x[i]), bf16[i] = pack_bf16(x[i], -x[i]), exp2[i] = exp2_fast(x[i]);
}

// When each thread runs: its place in the order of all.
extern "C" __global__ void order(u32 *next, u32 *place) {
    place[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1u);
}

// Some threads end while others wait for the rest of their block, and of their warp.
extern "C" __global__ void early(u32 *x) {
    u32 *mine = (u32 *)shared;
    mine[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x % 3 == 0) return;
    __syncthreads();
    if (threadIdx.x % 3 == 1) return;
    x[threadIdx.x] = __shfl_down_sync(threadIdx.x % 2 ? 0xAAAAAAAAu : 0x55555555u, mine[threadIdx.x], 6);
}

// Copies of 4 bytes, of which some are cut, in two groups.
extern "C" __global__ void copy_parts(const float *from, float *to) {
    float *mine = (float *)shared + 2 * threadIdx.x;
    const u32 at = shared_address(mine);
    copy_async_4(at, from + threadIdx.x, threadIdx.x % 2 ? 4 : 0);
    copy_async_commit();
    copy_async_4(at + 4, from + threadIdx.x, 4);
    copy_async_commit();
    copy_async_wait<1>();
    to[3 * threadIdx.x] = mine[0];
    to[3 * threadIdx.x + 1] = __uint_as_float(load_shared(at + 4));  // not there yet
    copy_async_wait<0>();
    store_shared(at, __float_as_uint(mine[1]));
    to[3 * threadIdx.x + 2] = mine[0];
}

// Last of the blocks to arrive, it adds up what all left.
extern "C" __global__ void last_block(float *parts, u32 *arrived, float *sum) {
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = (float)blockIdx.x;
        __threadfence();
    }
    if (!__syncthreads_or(threadIdx.x == 0 && atomicAdd(arrived, 1u) == gridDim.x - 1)) return;
    if (threadIdx.x == 0) {
        float all = 0;
        for (u32 i = 0; i < gridDim.x; i++) all += __ldcg(parts + i);
        *sum = all, *arrived = 0;
    }
}

// What must be found. `how` says which mistake.
// Four warps that multiply and one that fetches: D (64 × 128) = A Bᵀ in bf16, A 64 × 128, B 128 × 128, in two slices that go
// through the same shared memory. `mistake` is what is left out.
extern "C" __global__ void product_of_boxes(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float *d, int mistake) {
    const u32 tile = shared_address(shared), full = tile + 24576, empty = full + 8;
    if (threadIdx.x == 0 && mistake != 1) barrier_init(full, 1), barrier_init(empty, 4), barrier_init_done();
    __syncthreads();
    if (threadIdx.x >= 128) {
        for (u32 k = 0; k < 2 && threadIdx.x == 128; k++) {
            if (k && mistake != 2) barrier_wait(empty, 0);
            barrier_arrive_and_expect(full, mistake == 3 ? 8192 : 24576);
            copy_box(tile, a, 0, 64 * k, full), copy_box(tile + 8192, b, 0, 64 * k, full);
        }
        return;
    }
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sums[64] = {};
    for (u32 k = 0; k < 2; k++) {
        if (mistake != 4) barrier_wait(full, k);
        if (mistake != 5) multiply_begin();
        for (u32 step = 0; step < 4; step++)
            multiply_boxes<128, true, true>(sums, tile + 32 * step, tile + 8192 + 32 * step);
        if (mistake != 6) multiply_commit();
        if (mistake != 7) multiply_wait<0>(sums);
        if (lane == 0) barrier_arrive(empty);
    }
    for (u32 i = 0; i < 64; i++)
        d[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

extern "C" __global__ void mistakes(int how, float *x, int n) {
    const int i = threadIdx.x;
    switch (how) {
        case 0: if (i < 40) __syncthreads(); else __syncwarp(); break;  // each half waits for the other
        case 1: if (i < 16) x[i] = __shfl_xor_sync(~0u, x[i], 1); else __syncthreads(); break;
        case 2: if (i % 2) __syncwarp(); else x[i] = (float)__ballot_sync(~0u, 1); break;
        case 3: __syncwarp(1u); break;                                     // lane 1 is not in its mask
        case 4: copy_async_16(shared_address(shared) + 4, x, 16); break;   // misaligned
        case 5: copy_async_16(shared_address(shared), x + n, 16); break;   // past the end
        case 6: ((float *)shared)[n] = 1; break;                           // past the launch's shared memory
        case 7: x[n + i] = 1; break;                                       // past an allocation: AddressSanitizer
        case 8: { u32 r[4]; if (i < 31) load_matrices(r, shared_address(shared)); x[i] = (float)r[0]; } break;
        case 9: x[i] = ((float *)shared)[n]; break;                        // AddressSanitizer
        case 10: x[i] = ((float2 *)(x + n))->y; break;                     // misaligned
        case 11: { float y[4] = {}; y[n + i % 2] = 1; x[i] = y[0] + y[3]; } break;  // past an array
        case 12: __syncwarp(i % 32 && i % 32 < 16 ? 0xFFFFu : ~0u); break;  // lane 0 is waited for with the other mask
        case 13: x[i] = (float)load_shared(512); break;                    // past the launch's shared memory
    }
}

template <int N> __device__ __forceinline__ float power(float x) { return x * power<N - 1>(x); }
template <> __device__ __forceinline__ float power<0>(float) { return 1; }
#define POWER(n)                                             \
    extern "C" __global__ void power_##n(REAL *x) {          \
        x[threadIdx.x] = (REAL)power<n>((float)x[threadIdx.x]); \
    }
POWER(2)
POWER(3)

// To see how fast launches, barriers and products are.
extern "C" __global__ void nothing(float *x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += 1;
}
extern "C" __global__ void barriers(float *x, int n) {
    for (int i = 0; i < n; i++) __syncthreads();
    if (threadIdx.x == 0) x[blockIdx.x] += 1;
}
extern "C" __global__ void products(float *x, int n) {
    const u32 a[4] = {0, 0, 0, 0};
    float sum[4] = {};
    for (int i = 0; i < n; i++) mma_bf16(sum, a, 0, 0);
    x[threadIdx.x] += sum[0];
}
