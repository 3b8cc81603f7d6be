// Attention in the elements' own precision, O = softmax(Q Kᵀ / √d) V; scores are never in memory. (On tensor cores:
// tensor_cores.cu.) The derivation of the backward pass stands in reference.rs.
//
// A block of 256 threads takes 32 queries (or keys) of one image and head, and walks over the keys (or queries), 32 at a time:
// warp w has four of its own 32, each of its threads one of the other 32.

enum { TILE = 32, OWN = 4 };
// On a multiprocessor at least: f32 has registers for four, f64 needs those of all.
enum { BLOCKS = sizeof(T) == 8 ? 1 : 4 };

struct Sizes {
    u64 batch, tokens, first, queries, heads, dim;  // `queries` of the tokens ask, from `first` on; dim: of a head
    T scale;
};

// Where the parts of the fused projection (B, N, 3, h, d) of one image and head lie, and its rows of O, (B, M, h, d).
struct Head {
    u64 qkv, row, part, out, out_row;
    __device__ __forceinline__ Head(const Sizes &s, u64 which) {
        const u64 b = which / s.heads, head = which % s.heads;
        part = s.heads * s.dim, row = 3 * part, qkv = b * s.tokens * row + head * s.dim;
        out_row = part, out = b * s.queries * out_row + head * s.dim;
    }
};

// 32 rows of d numbers to shared memory, in rows of `pitch`; past the last zeros.
__device__ __forceinline__ void load(T *tile, u64 pitch, const T *from, u64 row, u64 rows, u64 dim) {
    for (u64 i = threadIdx.x; i < TILE * dim; i += 256) {
        const u64 r = i / dim, e = i % dim;
        tile[r * pitch + e] = r < rows ? from[r * row + e] : T(0);
    }
}

// dots[r] ← ⟨row 4 w + r of own, row `lane` of other⟩.
__device__ __forceinline__ void products(T *dots, const T *own, const T *other, u64 pitch, u64 dim) {
    const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
    for (int r = 0; r < OWN; r++) dots[r] = 0;
    for (u64 e = 0; e < dim; e++) {
        const T x = other[lane * pitch + e];
        for (int r = 0; r < OWN; r++) dots[r] += own[(w * OWN + r) * pitch + e] * x;
    }
}

// sum (rows of the warp, in shared memory) ← sum + weights · other: weights[r] of a thread belongs to row `lane` of other.
__device__ __forceinline__ void add(T *sum, const T *weights, const T *other, u64 pitch, u64 dim) {
    const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
    for (u64 e0 = 0; e0 < dim; e0 += 32) {
        const u64 e = e0 + lane;
        T more[OWN] = {};
        for (int j = 0; j < 32; j++) {
            const T x = e < dim ? other[j * pitch + e] : T(0);
            add_broadcast(more, weights, j, x);
        }
        if (e < dim)
            for (int r = 0; r < OWN; r++) sum[(w * OWN + r) * pitch + e] += more[r];
    }
}

__device__ __forceinline__ u64 least(u64 a, u64 b) { return a < b ? a : b; }

// The answers of a tile of queries, and for each the log of its softmax's denominator, largest score included. The softmax is
// taken as it comes: with each tile of keys what was summed before shrinks by e^(old largest − new largest).
struct Answers {
    T *q, *k, *v, *o;
    T log_sum[OWN];
    __device__ __forceinline__ Answers(const Sizes &s, const Head &h, const T *qkv, u64 query, char *shared) {
        const u64 pitch = s.dim + 1, size = TILE * pitch;
        q = (T *)shared, k = q + size, v = k + size, o = v + size;
        const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
        load(q, pitch, qkv + h.qkv + (s.first + query) * h.row, h.row, s.queries - query, s.dim);
        T largest[OWN], total[OWN];
        for (int r = 0; r < OWN; r++) largest[r] = -INFINITY, total[r] = 0;
        for (u64 e = lane; e < s.dim; e += 32)
            for (int r = 0; r < OWN; r++) o[(w * OWN + r) * pitch + e] = 0;
        for (u64 key = 0; key < s.tokens; key += TILE) {
            __syncthreads();
            load(k, pitch, qkv + h.qkv + h.part + key * h.row, h.row, s.tokens - key, s.dim);
            load(v, pitch, qkv + h.qkv + 2 * h.part + key * h.row, h.row, s.tokens - key, s.dim);
            __syncthreads();
            T p[OWN];
            products(p, q, k, pitch, s.dim);
            for (int r = 0; r < OWN; r++) {
                const T score = key + lane < s.tokens ? p[r] * s.scale : -INFINITY;
                const T most = warp_max(score), now = most > largest[r] || most != most ? most : largest[r];
                const T shrink = exp(largest[r] - now);
                p[r] = exp(score - now);
                total[r] = total[r] * shrink + warp_sum(p[r]);
                largest[r] = now;
                for (u64 e = lane; e < s.dim; e += 32) o[(w * OWN + r) * pitch + e] *= shrink;
            }
            add(o, p, v, pitch, s.dim);
        }
        for (int r = 0; r < OWN; r++) {
            log_sum[r] = largest[r] + log(total[r]);
            for (u64 e = lane; e < s.dim; e += 32) o[(w * OWN + r) * pitch + e] /= total[r];
        }
    }
};

// grid.x: images and heads; grid.y: tiles of queries.
extern "C" __global__ void __launch_bounds__(256, BLOCKS) forward(const Sizes s, const T *qkv, T *out) {
    extern __shared__ __align__(128) char shared[];
    const Head h(s, blockIdx.x);
    const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
    const u64 query = blockIdx.y * (u64)TILE;
    const Answers answers(s, h, qkv, query, shared);
    for (int r = 0; r < OWN; r++) {
        const u64 i = query + w * OWN + r;
        if (i < s.queries)
            for (u64 e = lane; e < s.dim; e += 32)
                out[h.out + i * h.out_row + e] = answers.o[(w * OWN + r) * (s.dim + 1) + e];
    }
}

// For each query, (B h, M, 2): its log of the sum, and Δ = Σ_j p_j dp_j = ⟨o, do⟩.
extern "C" __global__ void __launch_bounds__(256, BLOCKS) statistics(const Sizes s, const T *qkv, const T *dout, T *stats) {
    extern __shared__ __align__(128) char shared[];
    const Head h(s, blockIdx.x);
    const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
    const u64 query = blockIdx.y * (u64)TILE;
    const Answers answers(s, h, qkv, query, shared);
    for (int r = 0; r < OWN; r++) {
        const u64 i = query + w * OWN + r;
        if (i >= s.queries) continue;
        T delta = 0;
        for (u64 e = lane; e < s.dim; e += 32)
            delta += answers.o[(w * OWN + r) * (s.dim + 1) + e] * dout[h.out + i * h.out_row + e];
        delta = warp_sum(delta);
        T *of = stats + 2 * (blockIdx.x * s.queries + i);
        if (lane == 0) of[0] = answers.log_sum[r], of[1] = delta;
    }
}

// dQ of a tile of queries.
extern "C" __global__ void __launch_bounds__(256, BLOCKS)
    backward_queries(const Sizes s, const T *qkv, const T *dout, const T *stats, T *dqkv) {
    extern __shared__ __align__(128) char shared[];
    const u64 pitch = s.dim + 1, size = TILE * pitch;
    T *q = (T *)shared, *k = q + size, *v = k + size, *d = v + size, *dq = d + size;
    const Head h(s, blockIdx.x);
    const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
    const u64 query = blockIdx.y * (u64)TILE;
    const u64 asked = s.queries - query;
    load(q, pitch, qkv + h.qkv + (s.first + query) * h.row, h.row, asked, s.dim);
    load(d, pitch, dout + h.out + query * h.out_row, h.out_row, asked, s.dim);
    for (u64 i = threadIdx.x; i < size; i += 256) dq[i] = 0;
    for (u64 key = 0; key < s.tokens; key += TILE) {
        __syncthreads();
        load(k, pitch, qkv + h.qkv + h.part + key * h.row, h.row, s.tokens - key, s.dim);
        load(v, pitch, qkv + h.qkv + 2 * h.part + key * h.row, h.row, s.tokens - key, s.dim);
        __syncthreads();
        T p[OWN], dp[OWN];
        products(p, q, k, pitch, s.dim);
        products(dp, d, v, pitch, s.dim);
        for (int r = 0; r < OWN; r++) {
            const u64 i = query + w * OWN + r;
            if (i < s.queries && key + lane < s.tokens) {
                const T *of = stats + 2 * (blockIdx.x * s.queries + i);
                p[r] = exp(p[r] * s.scale - of[0]) * (dp[r] - of[1]) * s.scale;
            } else {
                p[r] = 0;
            }
        }
        add(dq, p, k, pitch, s.dim);
    }
    for (int r = 0; r < OWN; r++) {
        const u64 i = query + w * OWN + r;
        if (i < s.queries)
            for (u64 e = lane; e < s.dim; e += 32)
                dqkv[h.qkv + (s.first + i) * h.row + e] = dq[(w * OWN + r) * pitch + e];
    }
}

// dK and dV of a tile of keys.
extern "C" __global__ void __launch_bounds__(256, BLOCKS)
    backward_keys(const Sizes s, const T *qkv, const T *dout, const T *stats, T *dqkv) {
    extern __shared__ __align__(128) char shared[];
    const u64 pitch = s.dim + 1, size = TILE * pitch;
    T *q = (T *)shared, *k = q + size, *v = k + size, *d = v + size, *dk = d + size, *dv = dk + size;
    const Head h(s, blockIdx.x);
    const u32 lane = threadIdx.x % 32, w = threadIdx.x / 32;
    const u64 key = blockIdx.y * (u64)TILE;
    load(k, pitch, qkv + h.qkv + h.part + key * h.row, h.row, s.tokens - key, s.dim);
    load(v, pitch, qkv + h.qkv + 2 * h.part + key * h.row, h.row, s.tokens - key, s.dim);
    for (u64 i = threadIdx.x; i < 2 * size; i += 256) dk[i] = 0;  // and dv behind it
    for (u64 query = 0; query < s.queries; query += TILE) {
        __syncthreads();
        load(q, pitch, qkv + h.qkv + (s.first + query) * h.row, h.row, s.queries - query, s.dim);
        load(d, pitch, dout + h.out + query * h.out_row, h.out_row, s.queries - query, s.dim);
        __syncthreads();
        T p[OWN], ds[OWN];
        products(p, k, q, pitch, s.dim);
        products(ds, v, d, pitch, s.dim);
        const u64 i = query + lane;
        for (int r = 0; r < OWN; r++) {
            if (i < s.queries && key + w * OWN + r < s.tokens) {
                const T *of = stats + 2 * (blockIdx.x * s.queries + i);
                p[r] = exp(p[r] * s.scale - of[0]);
                ds[r] = p[r] * (ds[r] - of[1]) * s.scale;
            } else {
                p[r] = ds[r] = 0;
            }
        }
        add(dv, p, d, pitch, s.dim);
        add(dk, ds, q, pitch, s.dim);
    }
    for (int r = 0; r < OWN; r++) {
        const u64 j = key + w * OWN + r;
        if (j < s.tokens)
            for (u64 e = lane; e < s.dim; e += 32) {
                dqkv[h.qkv + h.part + j * h.row + e] = dk[(w * OWN + r) * pitch + e];
                dqkv[h.qkv + 2 * h.part + j * h.row + e] = dv[(w * OWN + r) * pitch + e];
            }
    }
}
