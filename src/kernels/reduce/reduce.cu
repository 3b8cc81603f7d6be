// Sums along an axis: of x, (outer, n, inner), over the middle. In f64 whatever the elements are, and rounded once.
//
// A block sums a part of the axis for 32 neighbors along `inner` (or, where inner is 1, for one output), its threads every
// 8th (256th) element, then each other in a fixed order. Where the axis is long and outputs are few, it is cut in `parts`, whose
// sums `finish` adds up.

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

// blocks of 32 × 8 threads; grid.x: outer · ⌈inner / 32⌉, grid.y: parts. Without parts to y, else to partial, (parts, outer · inner).
extern "C" __global__ void sum_columns(const Sizes s, const S *x, T *y, double *partial) {
    extern __shared__ __align__(128) char shared[];
    double *rows = (double *)shared;  // (8, 32)
    const u64 tiles = (s.inner + 31) / 32, outer = blockIdx.x / tiles, i = blockIdx.x % tiles * 32 + threadIdx.x;
    const u64 each = (s.n + s.parts - 1) / s.parts, first = blockIdx.y * each;
    const u64 end = first + each < s.n ? first + each : s.n;
    double sum = 0;
    if (i < s.inner)
        for (u64 k = first + threadIdx.y; k < end; k += 8) sum += term(s.what, get(x + (outer * s.n + k) * s.inner + i));
    rows[threadIdx.y * 32 + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || i >= s.inner) return;
    for (int row = 1; row < 8; row++) sum += rows[row * 32 + threadIdx.x];
    const u64 at = outer * s.inner + i;
    if (s.parts > 1) partial[blockIdx.y * s.outer * s.inner + at] = sum;
    else write(y + at, sum, s.becomes, s.factor, s.adds);
}

// For inner = 1; blocks of 256 threads; grid.x: outer, grid.y: parts.
extern "C" __global__ void sum_rows(const Sizes s, const S *x, T *y, double *partial) {
    extern __shared__ __align__(128) char shared[];
    const u64 outer = blockIdx.x, each = (s.n + s.parts - 1) / s.parts, first = blockIdx.y * each;
    const u64 end = first + each < s.n ? first + each : s.n;
    double sum = 0;
    for (u64 k = first + threadIdx.x; k < end; k += blockDim.x) sum += term(s.what, get(x + outer * s.n + k));
    sum = block_sum(sum, (double *)shared);
    if (threadIdx.x > 0) return;
    if (s.parts > 1) partial[blockIdx.y * s.outer + outer] = sum;
    else write(y + outer, sum, s.becomes, s.factor, s.adds);
}

// The parts of each output, in their order.
extern "C" __global__ void finish(const Sizes s, const double *partial, T *y) {
    const u64 outputs = s.outer * s.inner;
    EACH_ELEMENT(i, outputs) {
        double sum = 0;
        for (u32 part = 0; part < s.parts; part++) sum += partial[part * outputs + i];
        write(y + i, sum, s.becomes, s.factor, s.adds);
    }
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

// count[run] ← how many of them (or of their squares) are not finite; a block takes a run.
extern "C" __global__ void count_non_finite(const Run *runs, T *count) {
    extern __shared__ __align__(128) char shared[];
    const Run run = runs[blockIdx.x];
    double found = 0;
    for (u64 i = threadIdx.x; i < run.len; i += blockDim.x) {
        const T x = run.squares ? run.x[i] * run.x[i] : run.x[i];
        if (!(x - x == T(0))) found += 1;  // ∞ − ∞ and all that has NaN in it is NaN
    }
    found = block_sum(found, (double *)shared);
    if (threadIdx.x == 0) count[blockIdx.x] = (T)found;
}
