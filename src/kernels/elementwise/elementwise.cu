// Element by element. What is computed stands in reference.rs.

enum Binary { ADD, SUB, MUL, DIV };
enum Unary { EXP, LN, TANH, RELU, ABS, SQRT, GELU };

// How two operands meet, see `Walk` in mod.rs. Axes before the first of the `axes` last ones have length 1.
struct Walk {
    u64 dims[6], a[6], b[6];
};

// Where element i comes from, or goes to, in a and in b. INDEX is u32 where every offset fits: a 64-bit division takes
// some ten times as long.
__device__ __forceinline__ void find(const Walk &how, u32 axes, INDEX i, INDEX &a, INDEX &b) {
    a = b = 0;
    for (u32 axis = 5; axes > 0; axes--, axis--) {
        const INDEX dim = (INDEX)how.dims[axis], k = i % dim;
        i /= dim;
        a += k * (INDEX)how.a[axis];
        b += k * (INDEX)how.b[axis];
    }
}

__device__ __forceinline__ T apply(u32 op, T a, T b) {
    switch (op) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        default: return a / b;
    }
}

__device__ __forceinline__ T value(u32 f, T x) {
    switch (f) {
        case EXP: return exp(x);
        case LN: return log(x);
        case TANH: return tanh(x);
        case RELU: return x < T(0) ? T(0) : x;  // NaN stays NaN
        case ABS: return fabs(x);
        case SQRT: return sqrt(x);
        default: return x * cdf(x);
    }
}

// f′(x), given f(x) (of EXP, TANH, SQRT) or x.
__device__ __forceinline__ T slope(u32 f, T saved) {
    switch (f) {
        case EXP: return saved;
        case LN: return T(1) / saved;
        case TANH: return T(1) - saved * saved;
        case RELU: return saved > T(0) ? T(1) : T(0);
        case ABS: return saved > T(0) ? T(1) : saved < T(0) ? T(-1) : T(0);
        case SQRT: return T(1) / (saved + saved);
        default: return cdf(saved) + saved * pdf(saved);
    }
}

extern "C" __global__ void binary(u32 op, u64 n, const T *a, const T *b, T *y) {
    EACH_ELEMENT(i, n) y[i] = apply(op, a[i], b[i]);
}

extern "C" __global__ void broadcast(u32 op, const Walk how, u32 axes, u64 n, const T *a, const T *b, T *y) {
    EACH_ELEMENT(i, n) {
        INDEX of_a, of_b;
        find(how, axes, (INDEX)i, of_a, of_b);
        y[i] = apply(op, a[of_a], b[of_b]);
    }
}

// y ← x, walked through.
extern "C" __global__ void copy(const Walk how, u32 axes, u64 n, const T *x, T *y) {
    EACH_ELEMENT(i, n) {
        INDEX from, to;
        find(how, axes, (INDEX)i, from, to);
        y[to] = x[from];
    }
}

extern "C" __global__ void unary(u32 f, u64 n, const S *x, S *y) {
    EACH_ELEMENT(i, n) put(y + i, value(f, get(x + i)));
}

extern "C" __global__ void unary_backward(u32 f, u64 n, const T *saved, const T *dy, T *dx) {
    EACH_ELEMENT(i, n) dx[i] = slope(f, saved[i]) * dy[i];
}

// The gradient in the place of dy.
extern "C" __global__ void unary_and_backward(u32 f, u64 n, const T *x, T *y, T *dy) {
    EACH_ELEMENT(i, n) {
        const T of = x[i];
        y[i] = value(f, of);
        dy[i] = slope(f, of) * dy[i];
    }
}

extern "C" __global__ void accumulate(u64 n, const T *x, T *y) { EACH_ELEMENT(i, n) y[i] += x[i]; }

extern "C" __global__ void scale(u64 n, T factor, const T *x, T *y) { EACH_ELEMENT(i, n) y[i] = factor * x[i]; }

extern "C" __global__ void to_f32(u64 n, const S *x, float *y) { EACH_ELEMENT(i, n) y[i] = (float)get(x + i); }

extern "C" __global__ void to_f64(u64 n, const T *x, double *y) { EACH_ELEMENT(i, n) y[i] = (double)x[i]; }

// A thread takes two neighbors: a warp writes whole lines.
__device__ __forceinline__ void round_pairs(const T *x, u16 *y, u64 n, u64 first, u64 step) {
    for (u64 i = first; i < n / 2; i += step) ((u32 *)y)[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    if (n % 2 && first == 0) put(y + n - 1, (float)x[n - 1]);
}

extern "C" __global__ void to_bf16(u64 n, const T *x, u16 *y) {
    round_pairs(x, y, n, blockIdx.x * (u64)blockDim.x + threadIdx.x, (u64)gridDim.x * blockDim.x);
}

// A part of one of many tensors.
struct Run {
    const T *x;
    u16 *y;
    u64 n;
};

extern "C" __global__ void __launch_bounds__(1024) each_to_bf16(const Run *runs) {
    const Run run = runs[blockIdx.x];
    round_pairs(run.x, run.y, run.n, threadIdx.x, 1024);
}
