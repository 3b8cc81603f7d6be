// What several kernels share: types, the normal distribution, whose turn it is, and sums. Every sum is taken in an order
// that the shapes alone decide, so that the same numbers give the same bits on every run: no atomics.

typedef REAL T;  // the type of elements: float or double
// That of what only products read: T, or u16 for bf16. It is read and written by `get` and `put`.
#ifdef STORED
typedef STORED S;
#else
typedef T S;
#endif

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

// φ(x) and Φ(x) of the normal distribution.
__device__ __forceinline__ T pdf(T x) { return T(0.3989422804014327) * exp(T(-0.5) * x * x); }
__device__ __forceinline__ T cdf(T x) { return T(0.5) * erfc(x * T(-0.7071067811865476)); }

// A thread takes element i, then the one a whole grid further on: any number of elements fits any grid.
#define EACH_ELEMENT(i, n) \
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)
// The same for warps and rows. All threads of a warp have the same `row`, and so may shuffle.
#define EACH_ROW(row, rows)                                                        \
    for (u64 row = (blockIdx.x * (u64)blockDim.x + threadIdx.x) / 32; row < (rows); \
         row += (u64)gridDim.x * blockDim.x / 32)
// The elements of a row that one thread of a warp takes: neighbors read neighbors.
#define EACH_IN_ROW(i, n) for (u32 i = threadIdx.x % 32; i < (n); i += 32)

// Over the 32 threads of a warp; each gets the result.
template <typename N> __device__ __forceinline__ N warp_sum(N x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}
template <typename N> __device__ __forceinline__ N warp_max(N x) {
    for (int step = 16; step > 0; step /= 2) {
        N other = __shfl_xor_sync(~0u, x, step);
        x = other > x || other != other ? other : x;  // NaN stays
    }
    return x;
}

// Whether this block is the last to come of those that share a counter, which is 0 between launches: it then sees what
// they have written before, and adds up their parts in a fixed order, whoever came last. All threads that `meet` come, the
// first of the block among them; `scratch` is a word of shared memory that nothing else uses.
template <typename Meet> __device__ __forceinline__ bool comes_last(u32 blocks, u32 *counter, u32 *scratch, Meet meet) {
    __threadfence();
    meet();  // what all of them write is written
    if (threadIdx.x + threadIdx.y == 0) *scratch = atomicInc(counter, blocks - 1);  // the last one makes it 0 again
    meet();
    __threadfence();
    return *scratch == blocks - 1;
}
__device__ __forceinline__ bool comes_last(u32 blocks, u32 *counter, u32 *scratch) {
    return comes_last(blocks, counter, scratch, [] { __syncthreads(); });
}

// Over the threads of a block of whole warps, by way of 32 numbers of shared memory; each thread gets the result. All must
// meet at a barrier before a second call, which would write while the first is still read.
template <typename N> __device__ __forceinline__ N block_sum(N x, N *scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : N(0);
    return warp_sum(x);
}
