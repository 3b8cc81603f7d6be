// Tokens by index: row r of the indices reads the tokens of source r mod sources.

struct Gather {
    u64 sources, tokens, dim, per_row;
};

extern "C" __global__ void gather(const Gather g, u64 n, const T *x, const u32 *indices, T *y) {
    EACH_ELEMENT(i, n) {
        const u64 at = i / g.dim, source = at / g.per_row % g.sources;
        y[i] = x[(source * g.tokens + indices[at]) * g.dim + i % g.dim];
    }
}

// A block of 256 threads for each token of each source: it goes through the rows that read that source, in their order, and adds
// what was read from its token. Threads take neighboring numbers of the token.
extern "C" __global__ void scatter_add(const Gather g, u64 rows, const T *dy, const u32 *indices, T *dx) {
    const u64 source = blockIdx.x / g.tokens;
    const u32 token = (u32)(blockIdx.x % g.tokens);
    for (u64 e = threadIdx.x; e < g.dim; e += blockDim.x) {
        T sum = 0;
        for (u64 row = source; row < rows; row += g.sources)
            for (u64 at = row * g.per_row; at < (row + 1) * g.per_row; at++)
                if (indices[at] == token) sum += dy[at * g.dim + e];
        dx[blockIdx.x * g.dim + e] = sum;
    }
}
