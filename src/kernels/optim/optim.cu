// AdamW and moving averages of every parameter of a model in one launch: a block takes a run of one tensor, as the table says.
// What is the same for a whole tensor was computed on the host, in f64.

struct AdamW {
    T *w, *m, *v, *average;  // the average that follows w, or null
    const T *g;
    u64 len;
    T step_size, keep;              // lr / (1 − β₁ᵗ), 1 − lr λ
    T momentum, rest;               // μ, 1 − μ
};
struct Step {
    T beta1, rest1, beta2, rest2;   // β₁, 1 − β₁, β₂, 1 − β₂
    T inverse_sqrt_correction2, eps;  // 1 / √(1 − β₂ᵗ), ε
};

// Nothing is changed if `unless` is there and not 0: how many numbers of a step are not finite.
extern "C" __global__ void __launch_bounds__(1024) adamw(const Step s, const AdamW *table, const T *unless) {
    if (unless && *unless != 0) return;
    const AdamW p = table[blockIdx.x];
    for (u64 i = threadIdx.x; i < p.len; i += blockDim.x) {
        const T g = p.g[i], m = s.beta1 * p.m[i] + s.rest1 * g, v = s.beta2 * p.v[i] + s.rest2 * g * g;
        const T w = p.w[i] * p.keep - p.step_size * m / (sqrt(v) * s.inverse_sqrt_correction2 + s.eps);
        p.m[i] = m, p.v[i] = v, p.w[i] = w;
        if (p.average) p.average[i] = p.momentum * p.average[i] + p.rest * w;
    }
}

// x ← before, if `unless` is not 0.
extern "C" __global__ void undo(u64 n, const T *unless, const T *before, T *x) {
    if (*unless == 0) return;
    EACH_ELEMENT(i, n) x[i] = before[i];
}

struct Average {
    T *average;
    const T *w;
    u64 len;
    T momentum, rest;
};

extern "C" __global__ void ema(const Average *table) {
    const Average p = table[blockIdx.x];
    for (u64 i = threadIdx.x; i < p.len; i += blockDim.x) p.average[i] = p.momentum * p.average[i] + p.rest * p.w[i];
}
