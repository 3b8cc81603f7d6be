// Attention on tensor cores, O = softmax(Q Kᵀ / √d) V and its gradient, of tensors that are bf16, or f32 and rounded to
// bf16 or tf32 before they are multiplied; results are of their type, sums and softmax f32. (In the elements' own precision:
// attention.cu; how mma is fed: matmul/tensor_cores.cu. The derivation of the backward pass stands in reference.rs.)
//
// Scores are never in memory, not even in shared memory: a warp has those of 16 queries (backward: 16 keys) in
// registers. That works because the sums of one product are, rounded and packed, the left piece of the next (`pack`):
// so the forward pass computes S with queries as rows, for P V, and the backward pass Sᵀ with keys as rows, for Pᵀ dO
// and dSᵀ Q.
//
// The host defines DIM: the width of a head, a multiple of 8 up to 128; BF16: 1, or 0 for tf32; STORED (u16), if tensors
// are bf16 and not f32.

#if BF16
typedef u16 Element;  // as shared memory has it
#else
typedef u32 Element;  // an f32, rounded
#endif

enum {
    STEP = BF16 ? 16 : 8,                  // of a reduction, in one mma
    PACKED = STEP / 8,                     // pieces of sums that make a left piece
    CHUNK = 16 / sizeof(Element),          // elements of 16 bytes
    PADDED = (DIM + 15) / 16 * 16,         // zeros to the right, so that pieces are whole
    PITCH = PADDED + CHUNK,                // of rows in shared memory: 8 rows of a chunk fall in different banks
    WIDE = PADDED / 8,                     // pieces across a row
    MOST = 256,                            // threads of a block
    KEYS = 64,                             // whose scores a warp has at once, forward
    QUERIES = 32,                          // the same, backward
    PITCH_OF_SCORES = QUERIES + CHUNK,
};

struct Sizes {
    u64 batch, tokens, first, queries, heads, dim;  // `queries` of the tokens ask, from `first` on; dim: of a head
    float scale;
};

// Where the parts of the fused projection (B, N, 3, h, d) of one image and head lie, and its rows of O, (B, M, h, d).
struct Head {
    u64 qkv, row, part, out, out_row;
    __device__ __forceinline__ Head(const Sizes &s, u64 which) {
        const u64 b = which / s.heads, head = which % s.heads;
        part = s.heads * DIM, row = 3 * part, qkv = b * s.tokens * row + head * DIM;
        out_row = part, out = b * s.queries * out_row + head * DIM;
    }
};

// Pieces, and how they come from tiles: rows of elements in shared memory. A reduction `along` runs along a tile's
// rows, one `across` runs from row to row; there tf32 takes the 8 rows of a step in the order 0 2 4 6 1 3 5 7, which is
// that in which `pack` finds its numbers in registers.

__device__ __forceinline__ void multiply(float *sums, const u32 *left, const u32 *right) {
    if (BF16) mma_bf16(sums, left, right[0], right[1]);
    else mma_tf32(sums, left, right[0], right[1]);
}
// Two numbers as neighbors in a tile.
__device__ __forceinline__ void put_pair(char *at, float x, float y) {
    if (BF16) *(u32 *)at = pack_bf16(x, y);
    else *(uint2 *)at = make_uint2(round_tf32(x), round_tf32(y));
}
// As it is multiplied.
__device__ __forceinline__ float rounded(float x) {
    return BF16 ? from_bf16((u16)pack_bf16(x, 0)) : __uint_as_float(round_tf32(x));
}
// Pieces of sums as a left piece.
__device__ __forceinline__ void pack(u32 *left, const float (*sums)[4]) {
    if constexpr (BF16) {
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = pack_bf16(sums[i / 2][i % 2 * 2], sums[i / 2][i % 2 * 2 + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) left[i] = round_tf32(sums[0][i % 2 * 2 + i / 2]);
    }
}
// 16 rows of a tile.
__device__ __forceinline__ void left_along(u32 *r, const char *tile, u32 pitch, u32 row, u32 k) {
    const u32 lane = threadIdx.x % 32;
    load_matrices(r, shared_address(tile) + ((row + lane % 16) * pitch + k + lane / 16 * CHUNK) * sizeof(Element));
}
// 16 columns of a tile, as rows.
__device__ __forceinline__ void left_across(u32 *r, const char *tile, u32 pitch, u32 k, u32 column) {
    const u32 lane = threadIdx.x % 32;
    if constexpr (BF16) {
        const u32 at = (k + lane / 16 * 8 + lane % 8) * pitch + column + lane / 8 % 2 * 8;
        load_matrices_transposed(r, shared_address(tile) + at * sizeof(Element));
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            r[i] = ((const u32 *)tile)[(k + lane % 4 * 2 + i / 2) * pitch + column + lane / 4 + i % 2 * 8];
    }
}
// Two pieces: 8 rows of a tile as columns, and the next 8.
__device__ __forceinline__ void right_along(u32 *r, const char *tile, u32 pitch, u32 row, u32 k) {
    const u32 lane = threadIdx.x % 32, at = (row + lane / 16 * 8 + lane % 8) * pitch + k + lane / 8 % 2 * CHUNK;
    load_matrices(r, shared_address(tile) + at * sizeof(Element));
}
// Two pieces: 8 columns of a tile, and the next 8.
__device__ __forceinline__ void right_across(u32 *r, const char *tile, u32 pitch, u32 k, u32 column) {
    const u32 lane = threadIdx.x % 32;
    if constexpr (BF16) {
        const u32 at = (k + lane % 16) * pitch + column + lane / 16 * 8;
        load_matrices_transposed(r, shared_address(tile) + at * sizeof(Element));
    } else {
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            r[i] = ((const u32 *)tile)[(k + lane % 4 * 2 + i % 2) * pitch + column + lane / 4 + i / 2 * 8];
    }
}
// 16 rows straight from memory, where they are read once: all of their width, zeros past the last row.
__device__ __forceinline__ void left_from_memory(u32 (*r)[4], const S *from, u64 row, u32 rows) {
    const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (u32 k = 0; k < PADDED / STEP; k++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 of = g + i % 2 * 8, e = k * STEP + i / 2 * (STEP / 2) + t * PACKED;
            const bool inside = of < rows && e < DIM;
            const S *at = from + of * row + e;
            if constexpr (sizeof(S) == 2) {
                r[k][i] = inside ? *(const u32 *)at : 0;
            } else if constexpr (BF16) {
                const float2 x = inside ? *(const float2 *)at : make_float2(0, 0);
                r[k][i] = pack_bf16(x.x, x.y);
            } else {
                r[k][i] = inside ? round_tf32(*at) : 0;
            }
        }
}

// `rows` rows to a tile, rounded if they are not, and zeros below them up to `all`.
__device__ __forceinline__ void load(char *tile, const S *from, u64 row, u64 rows, u32 all) {
    for (u32 i = threadIdx.x; i < all * (PADDED / CHUNK); i += blockDim.x) {
        const u32 r = i / (PADDED / CHUNK), e = i % (PADDED / CHUNK) * CHUNK;
        const bool inside = r < rows && e < DIM;
        const S *at = from + r * row + e;
        uint4 *to = (uint4 *)(tile + (r * PITCH + e) * sizeof(Element));
        if constexpr (sizeof(S) == 2) {
            *to = inside ? *(const uint4 *)at : make_uint4(0, 0, 0, 0);
        } else {
            float4 x[CHUNK / 4];
#pragma unroll
            for (u32 j = 0; j < CHUNK / 4; j++)
                x[j] = inside ? *(const float4 *)(at + 4 * j) : make_float4(0, 0, 0, 0);
            if constexpr (BF16)
                *to = make_uint4(pack_bf16(x[0].x, x[0].y), pack_bf16(x[0].z, x[0].w), pack_bf16(x[1].x, x[1].y),
                                 pack_bf16(x[1].z, x[1].w));
            else *to = make_uint4(round_tf32(x[0].x), round_tf32(x[0].y), round_tf32(x[0].z), round_tf32(x[0].w));
        }
    }
}

__device__ __forceinline__ void write_pair(float *to, float x, float y) { *(float2 *)to = make_float2(x, y); }
__device__ __forceinline__ void write_pair(u16 *to, float x, float y) { *(u32 *)to = pack_bf16(x, y); }

// A warp's sums, times a factor, to `rows` rows in memory, from piece `piece` of a row on; added to those at `plus`, rows
// of `plus_row`, if it is there.
template <int PIECES, typename To>
__device__ __forceinline__ void store(
    To *to, u64 row, u64 rows, const float (*sums)[4], float factor, u32 piece, const float *plus, u64 plus_row) {
    const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (u32 j = 0; j < PIECES; j++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 r = g + 8 * half, e = 8 * (piece + j) + 2 * t;
            if (r >= rows || e >= DIM) continue;
            float2 x = make_float2(sums[j][2 * half] * factor, sums[j][2 * half + 1] * factor);
            if (plus) {
                const float2 before = *(const float2 *)(plus + r * plus_row + e);
                x = make_float2(before.x + x.x, before.y + x.y);
            }
            write_pair(to + r * row + e, x.x, x.y);
        }
}

// Over the four threads that share a row of sums.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// The answers of a warp's 16 queries, of which `asked` exist, and of each of a thread's two rows the binary logarithm
// of the softmax's denominator, largest score included. Keys come `rows` at a time to the tiles k and v. The softmax is
// taken as it comes: what was summed shrinks by 2^(old largest − new largest).
struct Answers {
    float o[WIDE][4];
    float log_sum[2];
    __device__ __forceinline__ Answers(
        const Sizes &s, const S *qkv, const Head &h, u64 query, u32 asked, char *k, char *v, u32 rows) {
        const u32 t = threadIdx.x % 4;
        const float scale = s.scale * 1.44269504f;  // scores are logarithms to base 2
        u32 q[PADDED / STEP][4];
        left_from_memory(q, qkv + h.qkv + (s.first + query) * h.row, h.row, asked);
#pragma unroll
        for (int j = 0; j < WIDE; j++) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0;
        float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        for (u64 key = 0; key < s.tokens; key += rows) {
            const u32 some = (u32)min(s.tokens - key, (u64)rows), whole = (some + 15) / 16 * 16;
            __syncthreads();  // all have read the tiles
            load(k, qkv + h.qkv + h.part + key * h.row, h.row, some, whole);
            load(v, qkv + h.qkv + 2 * h.part + key * h.row, h.row, some, whole);
            __syncthreads();
#pragma unroll 1
            for (u32 k0 = 0; k0 < some; k0 += KEYS) {
                float p[KEYS / 8][4] = {};
#pragma unroll
                for (u32 j = 0; j < KEYS / 8; j += 2)
                    if (k0 + 8 * j < some) {
#pragma unroll
                        for (u32 e = 0; e < PADDED / STEP; e++) {
                            u32 right[4];
                            right_along(right, k, PITCH, k0 + 8 * j, e * STEP);
                            multiply(p[j], q[e], right), multiply(p[j + 1], q[e], right + 2);
                        }
                    }
                float most[2] = {largest[0], largest[1]};
#pragma unroll
                for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        p[j][i] = k0 + 8 * j + 2 * t + i % 2 < some ? p[j][i] * scale : -INFINITY;
                        most[i / 2] = fmaxf(most[i / 2], p[j][i]);
                    }
                float shrink[2];
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    most[i] = row_max(most[i]);
                    shrink[i] = exp2_fast(largest[i] - most[i]), largest[i] = most[i], sum[i] *= shrink[i];
                }
#pragma unroll
                for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) p[j][i] = exp2_fast(p[j][i] - most[i / 2]), sum[i / 2] += p[j][i];
#pragma unroll
                for (u32 c = 0; c < WIDE; c++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) o[c][i] *= shrink[i / 2];
#pragma unroll
                for (u32 j = 0; j < KEYS / 8; j += PACKED)
                    if (k0 + 8 * j < some) {
                        u32 left[4];
                        pack(left, p + j);
#pragma unroll
                        for (u32 c = 0; c < WIDE; c += 2) {
                            u32 right[4];
                            right_across(right, v, PITCH, k0 + 8 * j, 8 * c);
                            multiply(o[c], left, right), multiply(o[c + 1], left, right + 2);
                        }
                    }
            }
        }
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            sum[i] = row_sum(sum[i]);
            log_sum[i] = largest[i] + log2f(sum[i]);
            sum[i] = 1 / sum[i];
        }
#pragma unroll
        for (u32 c = 0; c < WIDE; c++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) o[c][i] *= sum[i / 2];
    }
};

// grid.x: images and heads and, running faster, tiles of queries, 16 for a warp.
extern "C" __global__ void __launch_bounds__(MOST) forward(const Sizes s, const S *qkv, S *out) {
    extern __shared__ __align__(128) char shared[];
    const u32 each = blockDim.x / 2, tiles = (u32)((s.queries + each - 1) / each);
    const Head h(s, blockIdx.x / tiles);
    const u64 query = (u64)(blockIdx.x % tiles) * each + threadIdx.x / 32 * 16;
    const u64 asked = query < s.queries ? s.queries - query : 0;
    char *k = shared, *v = k + KEYS * PITCH * sizeof(Element);
    const Answers answers(s, qkv, h, query, (u32)min(asked, 16ull), k, v, KEYS);
    store<WIDE>(out + h.out + query * h.out_row, h.out_row, asked, answers.o, 1, 0, nullptr, 0);
}

// A block has an image and a head, grid.x of them; a warp has 16 keys of a tile, whose dK and dV stay in registers
// while all warps walk over the queries. dQ of those queries needs every key of the tile: the warps lay their parts of
// dSᵀ side by side in shared memory and share the product; tiles of keys after the first add to it. stats, (B h, M, 2):
// see step 1; sums, (B h, M, d), of bf16 with several tiles: dQ until the last, where it is rounded.
//
// In bf16 one block may have all registers, or some are spilled to make room for a second; in tf32 (0) the compiler chooses.
extern "C" __global__ void __launch_bounds__(MOST, BF16)
    backward(const Sizes s, const S *qkv, const S *dout, float *stats, float *sums, S *dqkv) {
    extern __shared__ __align__(128) char shared[];
    const u32 warp = threadIdx.x / 32, warps = blockDim.x / 32, keys = 16 * warps;
    const u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    char *k = shared, *v = k + keys * PITCH * sizeof(Element), *q = v + keys * PITCH * sizeof(Element);
    char *d = q + QUERIES * PITCH * sizeof(Element), *ds = d + QUERIES * PITCH * sizeof(Element);
    const Head h(s, blockIdx.x);
    float2 *of_queries = (float2 *)stats + blockIdx.x * s.queries;
    const float scale = s.scale * 1.44269504f;

    // 0. Tokens that do not ask: dQ = 0.
    for (u64 i = threadIdx.x; i < (s.tokens - s.queries) * (DIM / 4); i += blockDim.x) {
        u64 token = i / (DIM / 4);
        if (token >= s.first) token += s.queries;
        S *to = dqkv + h.qkv + token * h.row + i % (DIM / 4) * 4;
        write_pair(to, 0, 0), write_pair(to + 2, 0, 0);
    }

    // 1. Of each query the logarithm of its softmax's denominator, and Δ = Σ_j p_j dp_j = ⟨o, do⟩, of the same do as dp
    // has.
    for (u64 first = 0; first < s.queries; first += keys) {
        const u64 query = first + 16 * warp, asked = query < s.queries ? s.queries - query : 0;
        const Answers answers(s, qkv, h, query, (u32)min(asked, 16ull), k, v, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 r = g + 8 * half;
            float delta = 0;
#pragma unroll
            for (u32 c = 0; c < WIDE; c++)
                if (r < asked && 8 * c < DIM) {
                    const S *x = dout + h.out + (query + r) * h.out_row + 8 * c + 2 * t;
                    const float left = rounded(get(x)), right = rounded(get(x + 1));
                    delta += answers.o[c][2 * half] * left + answers.o[c][2 * half + 1] * right;
                }
            delta = row_sum(delta);
            if (r < asked && t == 0) of_queries[query + r] = make_float2(answers.log_sum[half], delta);
        }
    }

    for (u64 key = 0; key < s.tokens; key += keys) {
        const u32 some = (u32)min(s.tokens - key, (u64)keys), mine = 16 * warp;
        __syncthreads();  // all have read the tiles, and statistics are written
        load(k, qkv + h.qkv + h.part + key * h.row, h.row, some, keys);
        load(v, qkv + h.qkv + 2 * h.part + key * h.row, h.row, some, keys);
        float dk[WIDE][4] = {}, dv[WIDE][4] = {};
#pragma unroll 1
        for (u64 query = 0; query < s.queries; query += QUERIES) {
            const u64 asked = s.queries - query;
            load(q, qkv + h.qkv + (s.first + query) * h.row, h.row, asked, QUERIES);
            load(d, dout + h.out + query * h.out_row, h.out_row, asked, QUERIES);
            __syncthreads();

            // 2. Sᵀ = K Qᵀ and dPᵀ = V dOᵀ.
            float p[QUERIES / 8][4] = {}, dp[QUERIES / 8][4] = {};
#pragma unroll
            for (u32 e = 0; e < PADDED; e += STEP) {
                u32 of_k[4], of_v[4], right[4];
                left_along(of_k, k, PITCH, mine, e), left_along(of_v, v, PITCH, mine, e);
#pragma unroll
                for (u32 j = 0; j < QUERIES / 8; j += 2) {
                    right_along(right, q, PITCH, 8 * j, e);
                    multiply(p[j], of_k, right), multiply(p[j + 1], of_k, right + 2);
                    right_along(right, d, PITCH, 8 * j, e);
                    multiply(dp[j], of_v, right), multiply(dp[j + 1], of_v, right + 2);
                }
            }
            // 3. Pᵀ = softmax, dSᵀ = Pᵀ ⊙ (dPᵀ − Δ); nothing of keys and queries that do not exist.
#pragma unroll
            for (u32 j = 0; j < QUERIES / 8; j++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32 of = 8 * j + 2 * t + i % 2, row = mine + g + i / 2 * 8;
                    const bool exists = row < some && of < asked;
                    const float2 stat = exists ? of_queries[query + of] : make_float2(0, 0);
                    p[j][i] = exists ? exp2_fast(p[j][i] * scale - stat.x) : 0;
                    dp[j][i] = exists ? p[j][i] * (dp[j][i] - stat.y) : 0;
                }
#pragma unroll
            for (u32 j = 0; j < QUERIES / 8; j++)
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    const u32 at = (mine + g + 8 * half) * PITCH_OF_SCORES + 8 * j + 2 * t;
                    put_pair(ds + at * sizeof(Element), dp[j][2 * half], dp[j][2 * half + 1]);
                }
            // 4. dV += Pᵀ dO, dK += dSᵀ Q.
#pragma unroll
            for (u32 j = 0; j < QUERIES / 8; j += PACKED) {
                u32 of_p[4], of_ds[4], right[4];
                pack(of_p, p + j), pack(of_ds, dp + j);
#pragma unroll
                for (u32 c = 0; c < WIDE; c += 2) {
                    right_across(right, d, PITCH, 8 * j, 8 * c);
                    multiply(dv[c], of_p, right), multiply(dv[c + 1], of_p, right + 2);
                    right_across(right, q, PITCH, 8 * j, 8 * c);
                    multiply(dk[c], of_ds, right), multiply(dk[c + 1], of_ds, right + 2);
                }
            }
            __syncthreads();  // dSᵀ is there, and q and d have been read
            // 5. dQ += dS K: pieces of 16 queries and 16 columns go round the warps, the same to the same warp each
            // time.
            for (u32 piece = warp; piece < QUERIES / 16 * WIDE / 2; piece += warps) {
                const u32 row = piece % 2 * 16, c = piece / 2 * 2;
                float dq[2][4] = {};
                for (u32 of = 0; of < keys; of += STEP) {
                    u32 left[4], right[4];
                    left_across(left, ds, PITCH_OF_SCORES, of, row);
                    right_across(right, k, PITCH, of, 8 * c);
                    multiply(dq[0], left, right), multiply(dq[1], left, right + 2);
                }
                if (row >= asked) continue;
                S *to = dqkv + h.qkv + (s.first + query + row) * h.row;
                // Those of several tiles are added up in f32: in dqkv itself, or until they are rounded in `sums`.
                float *sum = sizeof(S) == 4 ? (float *)to : sums + (blockIdx.x * s.queries + query + row) * DIM;
                const u64 gap = sizeof(S) == 4 ? h.row : DIM;
                const float *plus = key > 0 ? sum : nullptr;
                if (sizeof(S) == 4 || key + keys < s.tokens)
                    store<2>(sum, gap, asked - row, dq, s.scale, c, plus, gap);
                else store<2>(to, h.row, asked - row, dq, s.scale, c, plus, gap);
            }
        }
        if (mine < some) {
            S *to = dqkv + h.qkv + (key + mine) * h.row;
            store<WIDE>(to + h.part, h.row, some - mine, dk, s.scale, 0, nullptr, 0);
            store<WIDE>(to + 2 * h.part, h.row, some - mine, dv, 1, 0, nullptr, 0);
        }
    }
}
