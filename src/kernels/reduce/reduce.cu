// Sums along an axis: of x, (outer, n, inner), over the middle. In f64 whatever the elements are, and rounded once.
//
// A block sums a part of the axis for 32 neighbors along `inner` (or, where inner is 1, for one output), its threads every
// 8th (256th) element, then each other in a fixed order. Where the axis is long and outputs are few, it is cut in `parts`, whose
// sums the last block to come adds up.

enum { PLAIN, SQUARES };
enum { SUM, ROOT };  // what becomes of a sum: factor · sum, or its square root

__device__ __forceinline__ double term(u32 what, T x) { return what == SQUARES ? (double)x * x : (double)x; }

// y ← factor · sum, or √sum, and what is there already where `adds`.
__device__ __forceinline__ void write(T *y, double sum, u32 becomes, double factor, u32 adds) {
    sum = becomes == ROOT ? sqrt(sum) : factor * sum;
    *y = (T)(adds ? (double)*y + sum : sum);
}

struct Sizes {
    u64 outer, n, inner;
    u32 parts, what, becomes, adds;
    double factor;
};

// The sum of the 8 threads of a column, in their order, for the first of them.
__device__ __forceinline__ double column_sum(double sum, double *rows) {
    __syncthreads();
    rows[threadIdx.y * 32 + threadIdx.x] = sum;
    __syncthreads();
    for (int row = 1; row < 8; row++) sum += rows[row * 32 + threadIdx.x];
    return sum;
}

// blocks of 32 × 8 threads; grid.x: outer · ⌈inner / 32⌉, grid.y: parts. partial: (parts, outer · inner), if there are several.
extern "C" __global__ void sum_columns(const Sizes s, const S *x, T *y, double *partial, u32 *counters) {
    extern __shared__ __align__(128) char shared[];
    double *rows = (double *)shared;  // (8, 32), and a word
    const u64 tiles = (s.inner + 31) / 32, outer = blockIdx.x / tiles, i = blockIdx.x % tiles * 32 + threadIdx.x;
    const u64 each = (s.n + s.parts - 1) / s.parts, first = blockIdx.y * each;
    const u64 end = first + each < s.n ? first + each : s.n;
    const u64 outputs = s.outer * s.inner, at = outer * s.inner + i;
    const bool exists = i < s.inner, writes = exists && threadIdx.y == 0;
    double sum = 0;
    if (exists) {
#pragma unroll 4
        for (u64 k = first + threadIdx.y; k < end; k += 8) sum += term(s.what, get(x + (outer * s.n + k) * s.inner + i));
    }
    sum = column_sum(sum, rows);
    if (s.parts > 1) {
        if (writes) partial[blockIdx.y * outputs + at] = sum;
        if (!comes_last(s.parts, counters + blockIdx.x, (u32 *)(rows + 256))) return;
        sum = 0;
        if (exists) {
#pragma unroll 4
            for (u32 part = threadIdx.y; part < s.parts; part += 8) sum += __ldcg(partial + part * outputs + at);
        }
        sum = column_sum(sum, rows);
    }
    if (writes) write(y + at, sum, s.becomes, s.factor, s.adds);
}

// For inner = 1; blocks of 256 threads; grid.x: outer, grid.y: parts.
extern "C" __global__ void sum_rows(const Sizes s, const S *x, T *y, double *partial, u32 *counters) {
    extern __shared__ __align__(128) char shared[];
    double *scratch = (double *)shared;  // 32, and a word
    const u64 outer = blockIdx.x, each = (s.n + s.parts - 1) / s.parts, first = blockIdx.y * each;
    const u64 end = first + each < s.n ? first + each : s.n;
    double sum = 0;
#pragma unroll 4
    for (u64 k = first + threadIdx.x; k < end; k += 256) sum += term(s.what, get(x + outer * s.n + k));
    sum = block_sum(sum, scratch);
    if (s.parts > 1) {
        if (threadIdx.x == 0) partial[blockIdx.y * s.outer + outer] = sum;
        if (!comes_last(s.parts, counters + outer, (u32 *)(scratch + 32))) return;
        sum = 0;
        for (u32 part = threadIdx.x; part < s.parts; part += 256) sum += __ldcg(partial + part * s.outer + outer);
        sum = block_sum(sum, scratch);
    }
    if (threadIdx.x == 0) write(y + outer, sum, s.becomes, s.factor, s.adds);
}

extern "C" __global__ void sum_backward(u64 outer, u64 n, u64 inner, T factor, const T *dy, T *dx) {
    EACH_ELEMENT(i, outer * n * inner) dx[i] = factor * dy[i / (n * inner) * inner + i % inner];
}

extern "C" __global__ void norm_backward(u64 n, const T *x, const T *norm, const T *dy, T *dx) {
    const double of = *norm;
    EACH_ELEMENT(i, n) dx[i] = of == 0 ? T(0) : (T)(x[i] * (double)*dy / of);
}

// Some elements of one of many buffers.
struct Run {
    const T *x;
    u64 len, squares;
};

// count[run] ← how many of them (or of their squares) are not finite; a block of 1024 threads takes a run.
extern "C" __global__ void __launch_bounds__(1024) count_non_finite(const Run *runs, T *count) {
    extern __shared__ __align__(128) char shared[];
    const Run run = runs[blockIdx.x];
    u32 found = 0;
#pragma unroll 4
    for (u64 i = threadIdx.x; i < run.len; i += 1024) {
        const T x = run.squares ? run.x[i] * run.x[i] : run.x[i];
        found += !(x - x == T(0));  // ∞ − ∞ and all that has NaN in it is NaN
    }
    found = block_sum(found, (u32 *)shared);
    if (threadIdx.x == 0) count[blockIdx.x] = (T)found;
}
