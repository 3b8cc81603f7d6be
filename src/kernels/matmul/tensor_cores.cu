// Products on tensor cores: c ← a b + what is added, for each of a batch, of matrices that are bf16, or f32 and rounded to
// bf16 or tf32 before they are multiplied; sums are f32. (In the elements' own precision: matmul.cu.)
//
// A tensor core has one instruction, mma: the 32 threads of a warp together multiply a piece of a, 16 × STEP, with a
// piece of b, STEP × 8, and add it to 16 × 8 sums. Each thread holds some numbers of each piece, in an order that the
// hardware prescribes (primitives.cuh). Everything here is about bringing the numbers there in time:
//
//   memory → shared memory   A block computes a tile of c, TILE_M × TILE_N. The reduction goes in slices of DEPTH, of
//                            which some are on their way (`Operand`) while one is multiplied.
//   shared memory → pieces   A warp has ROWS × COLS pieces of sums. Pieces of a and b for a step are read while the
//                            step before is multiplied (`read_left`, `read_right`).
//   sums → c                 Straight from registers, two neighbors at a time (`write`); rounded, where c is bf16.
//
// There is one barrier for a slice: it says that the next slice is there for all, and that all have read this one.
//
// Where the reduction is long and tiles are few, it is cut in `splits`, each the work of one block. The last block to
// come adds up the sums of all, in their order, whoever came last: the same bits on every run.
//
// The host defines TILE_M, TILE_N, WARPS_M, WARPS_N: how the tile is cut between warps; STAGES: slices that fit shared
// memory; A_TRANSPOSED, B_TRANSPOSED; BF16: 1, or 0 for tf32; STORED (u16), if a and b are bf16 and not f32; C, the type
// of c: float or u16; GELU: 1, or 0 (see `write`); ALIGNED: whether rows of a and b begin at multiples of 16 bytes, pairs
// of neighbors of c and of what is added at multiples of what they take.

#if BF16
typedef u16 Element;  // as shared memory has it
#else
typedef float Element;
#endif

enum {
    THREADS = 32 * WARPS_M * WARPS_N,
    STEP = BF16 ? 16 : 8,             // of the reduction, in one mma
    CHUNK = 16 / sizeof(Element),     // elements that are copied at once
    DEPTH = 32,
    STEPS = DEPTH / STEP,
    ROWS = TILE_M / WARPS_M / 16,
    COLS = TILE_N / WARPS_N / 8,
};

struct Products {
    u64 a_step, b_step, c_step;  // from one matrix of the batch to the next
    u32 m, k, n, batch;
    u32 summed;  // the products of the batch are added up
    u32 own, splits, unused;
};

// A tile of an operand, one slice at a time: LINES rows of a (or columns of b) by DEPTH of the reduction. It lies in
// shared memory as the operand lies in memory, so that both are walked along: ALONG_DEPTH says that neighbors are
// neighbors of the reduction.
//
// Rows of a tile are PITCH elements apart, a little more than they have: then what a warp reads at once, 8 rows of a
// chunk or, of tf32 across the rows, 4 × 8 numbers, falls in different banks.
template <bool ALONG_DEPTH, u32 LINES, typename Stored> struct Operand {
    static constexpr u32 ACROSS = ALONG_DEPTH ? DEPTH : LINES, DOWN = ALONG_DEPTH ? LINES : DEPTH;
    static constexpr u32 PITCH = ACROSS + (ALONG_DEPTH ? CHUNK : 8), BYTES = DOWN * PITCH * sizeof(Element);
    // What a thread copies of a slice: chunks below each other.
    static constexpr u32 CHUNKS = ACROSS / CHUNK, GAP = THREADS / CHUNKS, EACH = DOWN / GAP;
    static_assert(THREADS % CHUNKS == 0 && DOWN % GAP == 0, "every thread copies as much");
    // As it lies in memory it can be copied behind the thread's back; what is rounded on the way goes through `held`.
    static constexpr bool AS_IT_IS = sizeof(Stored) == sizeof(Element);

    const Stored *from;
    u64 step;
    u32 line, depth, lines;  // the block's first line; all of the reduction; all lines
    u32 row, column;         // of the thread's first chunk, in the tile
    __align__(16) float held[AS_IT_IS ? 1 : EACH][CHUNK];

    __device__ __forceinline__ Operand(const Stored *from, u64 step, u32 line, u32 depth, u32 lines)
        : from(from), step(step), line(line), depth(depth), lines(lines) {
        row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * CHUNK;
    }

    // Begins to bring the slice from k on of one matrix: to shared memory at `tile`, or to `held`.
    __device__ __forceinline__ void bring(u64 matrix, u32 k, char *tile) {
        const u32 first = row + (ALONG_DEPTH ? line : k), at = column + (ALONG_DEPTH ? k : line);
        const u32 down = ALONG_DEPTH ? lines : depth, across = ALONG_DEPTH ? depth : lines;
        const u32 inside = at < across ? min(across - at, (u32)CHUNK) : 0;  // elements of a chunk that exist
        const Stored *chunk = from + matrix * step + (u64)first * across + at;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            const u32 n = first + i * GAP < down ? inside : 0;
            const Stored *of = chunk + (u64)i * GAP * across;
            if constexpr (AS_IT_IS) {
                const u32 to = shared_address(tile) + ((row + i * GAP) * PITCH + column) * sizeof(Element);
                if (ALIGNED) {
                    copy_async_16(to, n ? of : from, n * sizeof(Element));
                } else if constexpr (BF16) {  // copies behind the thread's back are of 4 bytes at least
#pragma unroll 1
                    for (u32 e = 0; e < CHUNK; e++) store_shared(to + 2 * e, e < n ? (u16)of[e] : (u16)0);
                } else {
#pragma unroll 1
                    for (u32 e = 0; e < CHUNK; e++) copy_async_4(to + 4 * e, e < n ? of + e : from, e < n ? 4 : 0);
                }
            } else if (ALIGNED) {  // then n is 0, 4 or 8
#pragma unroll
                for (u32 e = 0; e < CHUNK; e += 4)
                    *(float4 *)(held[i] + e) = e < n ? *(const float4 *)(of + e) : make_float4(0, 0, 0, 0);
            } else {
#pragma unroll
                for (u32 e = 0; e < CHUNK; e++) held[i][e] = e < n ? of[e] : 0;
            }
        }
    }

    // What is held, rounded, to shared memory.
    __device__ __forceinline__ void put(char *tile) const {
        if constexpr (!AS_IT_IS) {
#pragma unroll
            for (u32 i = 0; i < EACH; i++) {
                u32 pair[4];
#pragma unroll
                for (u32 e = 0; e < 4; e++) pair[e] = pack_bf16(held[i][2 * e], held[i][2 * e + 1]);
                char *to = tile + ((row + i * GAP) * PITCH + column) * sizeof(Element);
                *(uint4 *)to = make_uint4(pair[0], pair[1], pair[2], pair[3]);
            }
        }
    }

    // Where an element of a tile lies, by its line and its place in the reduction.
    __device__ __forceinline__ static u32 at(u32 line, u32 k) {
        return (ALONG_DEPTH ? line * PITCH + k : k * PITCH + line) * sizeof(Element);
    }
    // Rounded to tf32, if that is to be done yet. (To add half of what is cut off would be cheaper, and turn NaN, all
    // ones, into 0.)
    __device__ __forceinline__ static u32 rounded(u32 x) { return BF16 ? x : round_tf32(__uint_as_float(x)); }

    // The piece of a from `line` and k on, as mma takes it.
    __device__ __forceinline__ static void read_left(u32 *r, const char *tile, u32 line, u32 k) {
        const u32 lane = threadIdx.x % 32;
        if constexpr (ALONG_DEPTH) {
            load_matrices(r, shared_address(tile) + at(line + lane % 16, k + lane / 16 * CHUNK));
        } else if constexpr (BF16) {
            const u32 of = at(line + lane / 8 % 2 * 8, k + lane / 16 * 8 + lane % 8);
            load_matrices_transposed(r, shared_address(tile) + of);
        } else {
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                r[i] = *(const u32 *)(tile + at(line + lane / 4 + i % 2 * 8, k + lane % 4 + i / 2 * 4));
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) r[i] = rounded(r[i]);
    }
    // Two pieces of b, side by side: r[0] and r[1] of the first, r[2] and r[3] of the second.
    __device__ __forceinline__ static void read_right(u32 *r, const char *tile, u32 line, u32 k) {
        const u32 lane = threadIdx.x % 32;
        if constexpr (ALONG_DEPTH) {
            load_matrices(r, shared_address(tile) + at(line + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * CHUNK));
        } else if constexpr (BF16) {
            load_matrices_transposed(r, shared_address(tile) + at(line + lane / 16 * 8, k + lane % 16));
        } else {
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                r[i] = *(const u32 *)(tile + at(line + lane / 4 + i / 2 * 8, k + lane % 4 + i % 2 * 4));
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) r[i] = rounded(r[i]);
    }
};

typedef Operand<!A_TRANSPOSED, TILE_M, S> A;
typedef Operand<B_TRANSPOSED, TILE_N, S> B;

__device__ __forceinline__ void multiply(float *sums, const u32 *left, const u32 *right) {
    if (BF16) mma_bf16(sums, left, right[0], right[1]);
    else mma_tf32(sums, left, right[0], right[1]);
}

// What the host asks for beside the product. Of GELU's backward pass: h, that it was taken of, and z, for GELU(h).
struct Extras {
    const float *bias, *residual;
    const u16 *h;
    u16 *z;
};

// With GELU, z ← GELU(h) and x ← x GELU′(h), the gradient with respect to h where x is that with respect to z.
__device__ __forceinline__ float through_gelu(float h, float &x) {
    const float phi = cdf(h);
    x *= phi + h * pdf(h);
    return h * phi;
}

// c[i, j] and its right neighbor ← x, y + what is added.
template <typename To>
__device__ __forceinline__ void write(
    const Products &p, u32 batch, u32 i, u32 j, float x, float y, const Extras &with, To *c) {
    if (i >= p.m || j >= p.n) return;
    const u64 of = (u64)i * p.n + j, at = batch * p.c_step + of;
    if (ALIGNED) {  // two at a time
        auto add = [&](const float *from) {
            const float2 more = *(const float2 *)from;
            x += more.x, y += more.y;
        };
        if (with.bias) add(with.bias + j);
        if (with.residual) add(with.residual + of);
        if constexpr (GELU) {
            const u32 h = *(const u32 *)(with.h + at);
            const float lo = through_gelu(from_bf16((u16)h), x), hi = through_gelu(from_bf16((u16)(h >> 16)), y);
            *(u32 *)(with.z + at) = pack_bf16(lo, hi);
        }
        if constexpr (sizeof(To) == 2) {
            *(u32 *)(c + at) = pack_bf16(x, y);
        } else {
            if (p.own) add(c + at);
            *(float2 *)(c + at) = make_float2(x, y);
        }
    } else {
        auto one = [&](u32 e, float sum) {
            if (j + e >= p.n) return;
            if (with.bias) sum += with.bias[j + e];
            if (with.residual) sum += with.residual[of + e];
            if constexpr (GELU) put(with.z + at + e, through_gelu(get(with.h + at + e), sum));
            put(c + at + e, p.own ? get(c + at + e) + sum : sum);
        };
        one(0, x), one(1, y);
    }
}

// grid.x: the batch and, running faster, tiles of c, of which the columns' index runs fastest; grid.y: splits. partial:
// of each block that shares its tile the sums, as its threads have them; arrived: how many of a tile's blocks have
// come, 0 between launches.
extern "C" __global__ void __launch_bounds__(THREADS, THREADS == 128 ? 3 : 1) products(
    const Products p, const S *a, const S *b, const Extras with, C *c, float *partial, u32 *arrived) {
    extern __shared__ __align__(128) char shared[];
    auto tile_of_a = [&](u32 slice) { return shared + slice % STAGES * (A::BYTES + B::BYTES); };
    auto tile_of_b = [&](u32 slice) { return tile_of_a(slice) + A::BYTES; };
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 down = (p.m + TILE_M - 1) / TILE_M, across = (p.n + TILE_N - 1) / TILE_N;
    const u32 batch = blockIdx.x / (down * across);
    const u32 i0 = blockIdx.x / across % down * TILE_M, j0 = blockIdx.x % across * TILE_N;
    const u32 row = warp / WARPS_N * (TILE_M / WARPS_M), column = warp % WARPS_N * (TILE_N / WARPS_N);  // in the tile
    // The slices of all products that are added up, in a row.
    const u32 of_one = (p.k + DEPTH - 1) / DEPTH, slices = p.summed ? of_one * p.batch : of_one;
    const u32 each = (slices + p.splits - 1) / p.splits, first = min(blockIdx.y * each, slices);
    const u32 count = min(each, slices - first);
    A of_a(a, p.a_step, i0, p.k, p.m);
    B of_b(b, p.b_step, j0, p.k, p.n);

    auto bring = [&](u32 slice) {
        if (slice < count) {
            const u32 which = first + slice, matrix = p.summed ? which / of_one : 0;
            const u32 k = (which - matrix * of_one) * DEPTH;
            of_a.bring(p.summed ? matrix : batch, k, tile_of_a(slice));
            of_b.bring(p.summed ? matrix : batch, k, tile_of_b(slice));
        }
        if (A::AS_IT_IS) copy_async_commit();  // an empty one too, so that to count groups is to count slices
    };
    auto put = [&](u32 slice) {
        if (slice < count) of_a.put(tile_of_a(slice)), of_b.put(tile_of_b(slice));
    };
    // Pieces of two steps: those that are multiplied, those that are read.
    u32 left[2][ROWS][4], right[2][COLS][2];
    auto read = [&](u32 slice, u32 step) {
#pragma unroll
        for (u32 i = 0; i < ROWS; i++) A::read_left(left[step % 2][i], tile_of_a(slice), row + 16 * i, step * STEP);
#pragma unroll
        for (u32 j = 0; j < COLS; j += 2)
            B::read_right(right[step % 2][j], tile_of_b(slice), column + 8 * j, step * STEP);
    };
    // Until the next slice is there for all, and all have read what it will be followed by.
    auto arrive = [&](u32 next) {
        if (A::AS_IT_IS) copy_async_wait<STAGES - 2>();
        else put(next), bring(next + 1);
        __syncthreads();
    };

    float sums[ROWS][COLS][4] = {};
    for (u32 slice = 0; slice < (A::AS_IT_IS ? STAGES - 1 : 1); slice++) bring(slice);
    arrive(0);
    if (count > 0) read(0, 0);
    for (u32 slice = 0; slice < count; slice++) {
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            if (step + 1 < STEPS) {
                read(slice, step + 1);
            } else {
                arrive(slice + 1);
                if (slice + 1 < count) read(slice + 1, 0);
            }
            if (A::AS_IT_IS && step == 0) bring(slice + STAGES - 1);  // to where the slice before this one was
#pragma unroll
            for (u32 i = 0; i < ROWS; i++)
#pragma unroll
                for (u32 j = 0; j < COLS; j++) multiply(sums[i][j], left[step % 2][i], right[step % 2][j]);
        }
    }

    if (p.splits > 1) {
        const u64 gap = (u64)ROWS * COLS * THREADS;
        float4 *mine = (float4 *)partial + blockIdx.x * p.splits * gap + threadIdx.x;
#pragma unroll
        for (u32 i = 0; i < ROWS * COLS; i++) {
            const float *x = sums[i / COLS][i % COLS];
            mine[blockIdx.y * gap + i * THREADS] = make_float4(x[0], x[1], x[2], x[3]);
        }
        if (!last_to_come(arrived + blockIdx.x, p.splits, (u32 *)shared)) return;
#pragma unroll 1
        for (u32 split = 0; split < p.splits; split++)
#pragma unroll
            for (u32 i = 0; i < ROWS * COLS; i++) {
                float *x = sums[i / COLS][i % COLS];
                const float4 more = __ldcg(mine + split * gap + i * THREADS);
                x[0] = more.x + (split ? x[0] : 0), x[1] = more.y + (split ? x[1] : 0);
                x[2] = more.z + (split ? x[2] : 0), x[3] = more.w + (split ? x[3] : 0);
            }
    }
#pragma unroll
    for (u32 i = 0; i < ROWS; i++)
#pragma unroll
        for (u32 j = 0; j < COLS; j++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 line = i0 + row + 16 * i + lane / 4 + 8 * half, at = j0 + column + 8 * j + lane % 4 * 2;
                write(p, batch, line, at, sums[i][j][2 * half], sums[i][j][2 * half + 1], with, c);
            }
}
