// Layer norm along rows: a warp takes a row; the numbers of a row are read from memory once and then from the cache.

extern "C" __global__ void forward(u64 rows, u32 cols, T eps, const T *x, const T *gamma, const T *beta, S *y, T *stats) {
    EACH_ROW(row, rows) {
        const T *of = x + row * cols;
        T mean = 0, squares = 0;
        EACH_IN_ROW(i, cols) mean += of[i];
        mean = warp_sum(mean) / cols;
        EACH_IN_ROW(i, cols) squares += (of[i] - mean) * (of[i] - mean);
        const T inverse_std = T(1) / sqrt(warp_sum(squares) / cols + eps);
        EACH_IN_ROW(i, cols) {
            const T normal = (of[i] - mean) * inverse_std;
            put(y + row * cols + i, gamma ? normal * gamma[i] + beta[i] : normal);
        }
        if (threadIdx.x % 32 == 0) stats[2 * row] = mean, stats[2 * row + 1] = inverse_std;
    }
}

extern "C" __global__ void recompute(u64 rows, u32 cols, const T *x, const T *gamma, const T *beta, const T *stats, S *y) {
    EACH_ROW(row, rows) {
        const T mean = stats[2 * row], inverse_std = stats[2 * row + 1];
        EACH_IN_ROW(i, cols) put(y + row * cols + i, (x[row * cols + i] - mean) * inverse_std * gamma[i] + beta[i]);
    }
}

// With g = γ ⊙ dy: dx ← dx + (g − mean(g) − x̂ mean(g ⊙ x̂)) / √(v + ε).
extern "C" __global__ void backward_input(u64 rows, u32 cols, const T *x, const T *gamma, const T *stats, const T *dy, T *dx) {
    EACH_ROW(row, rows) {
        const u64 start = row * cols;
        const T mean = stats[2 * row], inverse_std = stats[2 * row + 1];
        T mean_g = 0, mean_gx = 0;
        EACH_IN_ROW(i, cols) {
            const T g = gamma ? gamma[i] * dy[start + i] : dy[start + i];
            mean_g += g;
            mean_gx += g * (x[start + i] - mean);
        }
        mean_g = warp_sum(mean_g) / cols;
        mean_gx = warp_sum(mean_gx) * inverse_std / cols;
        EACH_IN_ROW(i, cols) {
            const T g = gamma ? gamma[i] * dy[start + i] : dy[start + i];
            dx[start + i] += (g - mean_g - (x[start + i] - mean) * inverse_std * mean_gx) * inverse_std;
        }
    }
}

// dγ and dβ: blocks of 32 columns × 8; grid.x: ⌈cols / 32⌉, grid.y: parts of the rows, whose sums (parts, 2, cols) the last
// block to come adds up.
extern "C" __global__ void backward_affine(
    u64 rows, u32 cols, const T *x, const T *stats, const T *dy, T *partial, u32 *counters, T *to_gamma, T *to_beta) {
    extern __shared__ __align__(128) char shared[];
    T *sums = (T *)shared;  // (2, 8, 32), and a word
    const u32 col = blockIdx.x * 32 + threadIdx.x, at = threadIdx.y * 32 + threadIdx.x;
    const u64 each = (rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * each;
    const u64 end = first + each < rows ? first + each : rows;
    T dgamma = 0, dbeta = 0;
    // Over the 8 threads of a column, in their order, for the first of them.
    auto column_sums = [&] {
        __syncthreads();
        sums[at] = dgamma, sums[256 + at] = dbeta;
        __syncthreads();
        for (int i = 32 + threadIdx.x; i < 256; i += 32) dgamma += sums[i], dbeta += sums[256 + i];
    };
    if (col < cols) {
#pragma unroll 4
        for (u64 row = first + threadIdx.y; row < end; row += 8) {
            const T d = dy[row * cols + col];
            dgamma += d * (x[row * cols + col] - stats[2 * row]) * stats[2 * row + 1];
            dbeta += d;
        }
    }
    column_sums();
    const bool writes = col < cols && threadIdx.y == 0;
    if (gridDim.y > 1) {
        if (writes) {
            partial[blockIdx.y * 2ull * cols + col] = dgamma;
            partial[(blockIdx.y * 2ull + 1) * cols + col] = dbeta;
        }
        if (!comes_last(gridDim.y, counters + blockIdx.x, (u32 *)(sums + 512))) return;
        dgamma = dbeta = 0;
        if (col < cols) {
#pragma unroll 4
            for (u32 part = threadIdx.y; part < gridDim.y; part += 8) {
                dgamma += __ldcg(partial + part * 2ull * cols + col);
                dbeta += __ldcg(partial + (part * 2ull + 1) * cols + col);
            }
        }
        column_sums();
    }
    if (writes) to_gamma[col] = dgamma, to_beta[col] = dbeta;
}
