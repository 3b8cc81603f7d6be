// Losses, as means over elements or over rows. Two steps: what each element or row costs; then their sum, by reduce.cu.

enum { SMOOTH_L1, SQUARED };

__device__ __forceinline__ T cost(u32 of, T beta, T d) {
    if (of == SQUARED) return d * d;
    d = fabs(d);
    return d < beta ? T(0.5) * d * d / beta : d - T(0.5) * beta;
}

__device__ __forceinline__ T slope(u32 of, T beta, T d) {
    if (of == SQUARED) return d + d;
    d /= beta;
    return d > T(1) ? T(1) : d < T(-1) ? T(-1) : d;  // NaN stays
}

// each[block] ← what the block's elements cost, in f64.
extern "C" __global__ void regression(u32 of, T beta, u64 n, const T *x, const T *y, double *each) {
    extern __shared__ __align__(128) char shared[];
    double sum = 0;
    EACH_ELEMENT(i, n) sum += cost(of, beta, x[i] - y[i]);
    sum = block_sum(sum, (double *)shared);
    if (threadIdx.x == 0) each[blockIdx.x] = sum;
}

extern "C" __global__ void regression_backward(u32 of, T beta, u64 n, const T *x, const T *y, const T *dy, T *dx) {
    const T share = (T)((double)*dy / n);
    EACH_ELEMENT(i, n) dx[i] = slope(of, beta, x[i] - y[i]) * share;
}

// each[row] ← ln Σ exp(x) − x[class], in f64; a warp takes a row.
extern "C" __global__ void cross_entropy(u64 rows, u32 cols, const T *x, const u32 *classes, double *each) {
    EACH_ROW(row, rows) {
        const T *of = x + row * cols;
        T largest = -INFINITY;
        EACH_IN_ROW(i, cols) largest = of[i] > largest || of[i] != of[i] ? of[i] : largest;
        largest = warp_max(largest);
        double total = 0;
        EACH_IN_ROW(i, cols) total += exp(of[i] - largest);
        total = warp_sum(total);
        if (threadIdx.x % 32 == 0) each[row] = log(total) + ((double)largest - of[classes[row]]);
    }
}

// p ← (p − onehot(class)) dy / rows.
extern "C" __global__ void cross_entropy_backward(u64 rows, u32 cols, const u32 *classes, const T *dy, T *p) {
    const T share = (T)((double)*dy / rows);
    EACH_ELEMENT(i, rows * cols) p[i] = (p[i] - (i % cols == classes[i / cols] ? T(1) : T(0))) * share;
}

// loss ← Σ each / n; one block.
extern "C" __global__ void mean(u64 parts, u64 n, const double *each, T *loss) {
    extern __shared__ __align__(128) char shared[];
    double sum = 0;
    EACH_ELEMENT(i, parts) sum += each[i];
    sum = block_sum(sum, (double *)shared);
    if (threadIdx.x == 0) *loss = (T)(sum / n);
}
