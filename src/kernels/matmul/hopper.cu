// Products of bf16 matrices on Hopper: c ← a b + what is added, as tensor_cores.cu, where mma.sync reaches less than half
// of what this card can do.
//
// Its tensor cores take both operands from shared memory, 64 × TILE_N × 16 in one instruction of four warps, and a copy
// engine brings them there: a thread asks for a box of a matrix, and no thread copies anything (`multiply_boxes` and
// `copy_box` of primitives.cuh, where the order of what lies in shared memory is told). So the warps of a block differ:
//
//   warp 8              One of its threads walks along the reduction, in slices of DEPTH, and asks for both operands'
//                       boxes of each, as far ahead as STAGES of shared memory allow, into the next tile too. (Warps 9
//                       to 11 do nothing: registers are handed over by four warps together.)
//   warps 0-3 and 4-7   Each four multiply the upper or the lower 64 rows of the tile with all of its columns, and write
//                       the sums to c.
//
// A stage goes back and forth between them by two barriers: `full`, at which the boxes' bytes arrive, and `empty`, at
// which each of the eight warps does, when its products of that slice are done. They are waited for one slice later, so
// that the tensor cores have always the next one to do.
//
// Tiles of c, TILE_M × TILE_N, are more than blocks: a block takes one, then the one a whole grid further on. While the
// sums of one are written the boxes of the next are under way.
//
// A long reduction is cut in `splits`, as in tensor_cores.cu: each is a unit of work for some block, and the last to come
// adds up the sums of all in their order.
//
// The host defines TILE_N (128, 192, 256); STAGES, that fit shared memory; A_TRANSPOSED, B_TRANSPOSED; C, the type of c:
// float or u16; GELU: 1, or 0. Rows of all matrices begin at multiples of 16 bytes.

enum {
    TILE_M = 128,
    DEPTH = 64,  // 128 bytes, a box's row
    STEP = 16,   // of the reduction, in one instruction
    GROUPS = TILE_M / 64,
    WARPS = 4 * GROUPS,  // that multiply
    SUMMING = 32 * WARPS,
    THREADS = SUMMING + 128,
    MORE = 240,  // registers of a thread that sums, and of one that does not
    FEWER = 24,
    BOX = 64 * DEPTH * 2,  // bytes of 64 lines
    BYTES_OF_A = TILE_M / 64 * BOX,
    STAGE = BYTES_OF_A + TILE_N / 64 * BOX,
    EACH = TILE_N / 8,  // times 4 sums of a thread
    PIECE = 32,         // columns of a warp's rows that are written at once
};

struct Products {
    u32 m, k, n;
    u32 own, splits, unused;
};

// What the host asks for beside the product; h and z as in tensor_cores.cu.
struct Extras {
    const float *bias, *residual;
    const u16 *h;
    u16 *z;
};

// Eight neighbors in memory.
__device__ __forceinline__ void add(float *x, const float *from) {
#pragma unroll
    for (u32 e = 0; e < 8; e += 4) {
        const float4 more = *(const float4 *)(from + e);
        x[e] += more.x, x[e + 1] += more.y, x[e + 2] += more.z, x[e + 3] += more.w;
    }
}
__device__ __forceinline__ void store(float *to, const float *x) {
#pragma unroll
    for (u32 e = 0; e < 8; e += 4) *(float4 *)(to + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
}
__device__ __forceinline__ void store(u16 *to, const float *x) {
    *(uint4 *)to =
        make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

// Φ(h) and φ(h), the latter to 2 units in the last place, the former to 7.5e-8 (Abramowitz and Stegun, Handbook of
// Mathematical Functions, 26.2.17): a bf16 has 2e-3 at most of that. A tile has more numbers than a multiprocessor can take
// erfc of while it multiplies.
__device__ __forceinline__ void normal(float h, float &cdf, float &pdf) {
    pdf = 0.39894228f * exp2_fast(-0.72134752f * h * h);
    const float t = __fdividef(1, 1 + 0.2316419f * fabsf(h));
    const float tail = 0.31938153f + t * (-0.356563782f + t * (1.781477937f + t * (-1.821255978f + t * 1.330274429f)));
    cdf = h < 0 ? pdf * t * tail : 1 - pdf * t * tail;
}

// A warp's 16 rows of sums, from `row` and `column` of c on, to c. Each thread has two neighbors here and there; by way
// of the warp's own 16 × PIECE numbers of shared memory it comes to write eight in a row, and four threads a whole line.
__device__ __forceinline__ void write(
    const Products &p, const float *sums, u32 row, u32 column, const Extras &with, C *c, float *scratch) {
    const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // Rows are turned against each other, so that four of them fall in different banks.
    auto at = [&](u32 row, u32 column) { return scratch + row * PIECE + (column ^ row % 4 * 8); };
    // What a thread adds to its eight numbers of each of two rows, and h. It is read a piece ahead, and before the piece is
    // written: the compiler cannot know that these are different places.
    float more[2][8];
    uint4 h[2];
    auto is_there = [&](u32 piece, u32 half) { return row + g + 8 * half < p.m && column + piece * PIECE + t * 8 < p.n; };
    auto place = [&](u32 piece, u32 half) { return (u64)(row + g + 8 * half) * p.n + column + piece * PIECE + t * 8; };
    auto read = [&](u32 piece) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
            for (u32 e = 0; e < 8; e++) more[half][e] = 0;
            if (!is_there(piece, half)) continue;
            const u64 of = place(piece, half);
            if (with.bias) add(more[half], with.bias + column + piece * PIECE + t * 8);
            if (with.residual) add(more[half], with.residual + of);
            if constexpr (sizeof(C) == 4) {
                if (p.own) add(more[half], (const float *)c + of);
            }
            if constexpr (GELU) h[half] = *(const uint4 *)(with.h + of);
        }
    };
    read(0);
#pragma unroll
    for (u32 piece = 0; piece < TILE_N / PIECE; piece++) {
#pragma unroll
        for (u32 i = 0; i < 2 * PIECE / 8; i++) {
            const u32 half = i % 2;
            const float *two = sums + (piece * PIECE / 8 + i / 2) * 4 + 2 * half;
            *(float2 *)at(g + 8 * half, i / 2 * 8 + t * 2) = make_float2(two[0], two[1]);
        }
        __syncwarp();
        float x[2][8], z[2][8];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
            for (u32 e = 0; e < 8; e++) x[half][e] = more[half][e];
            add(x[half], at(g + 8 * half, t * 8));
            if constexpr (GELU) {  // z ← GELU(h), and x, the gradient with respect to z, becomes that with respect to h
                const u32 pairs[4] = {h[half].x, h[half].y, h[half].z, h[half].w};
#pragma unroll
                for (u32 e = 0; e < 8; e++) {
                    const float of_h = from_bf16((u16)(pairs[e / 2] >> e % 2 * 16));
                    float cdf, pdf;
                    normal(of_h, cdf, pdf);
                    x[half][e] *= cdf + of_h * pdf;
                    z[half][e] = of_h * cdf;
                }
            }
        }
        __syncwarp();
        if (piece + 1 < TILE_N / PIECE) read(piece + 1);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (!is_there(piece, half)) continue;
            if constexpr (GELU) store(with.z + place(piece, half), z[half]);
            store(c + place(piece, half), x[half]);
        }
    }
}

// Has what `write` will read brought to the level-2 cache, while the warp multiplies.
__device__ __forceinline__ void prefetch(const Products &p, u32 row, u32 column, const Extras &with, const C *c) {
    const u32 i = row + threadIdx.x % 32;
    if (threadIdx.x % 32 >= 16 || i >= p.m) return;
    const u32 columns = min((u32)TILE_N, p.n - column);
    const u64 of = (u64)i * p.n + column;
    if (with.residual) prefetch(with.residual + of, columns * 4);
    if (p.own) prefetch(c + of, columns * sizeof(C));
    if (GELU) prefetch(with.h + of, columns * 2);
}

// One of the splits of a tile is done: leaves its sums for the last one, which gets those of all. partial: of each split
// the sums, as its threads have them.
__device__ __forceinline__ bool all_arrived(
    float *sums, u32 splits, u32 split, float *partial, u32 *counter, u32 *scratch) {
    float4 *mine = (float4 *)partial + threadIdx.x;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        const float *x = sums + 4 * i;
        mine[((u64)split * EACH + i) * SUMMING] = make_float4(x[0], x[1], x[2], x[3]);
    }
    if (!comes_last(splits, counter, scratch, [] { barrier_of<1, SUMMING>(); })) return false;
#pragma unroll 1
    for (u32 other = 0; other < splits; other++)
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            float *x = sums + 4 * i;
            const float4 more = __ldcg(mine + ((u64)other * EACH + i) * SUMMING);
            x[0] = more.x + (other ? x[0] : 0), x[1] = more.y + (other ? x[1] : 0);
            x[2] = more.z + (other ? x[2] : 0), x[3] = more.w + (other ? x[3] : 0);
        }
    return true;
}

// grid.x: as many blocks as there is room for, or fewer. Units of work are the tiles of c, of which the columns' index runs
// faster, and of each its splits.
extern "C" __global__ void __launch_bounds__(THREADS, 1) products(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ Products p,
    const __grid_constant__ Extras with, C *c, float *partial, u32 *counters) {
    extern __shared__ __align__(1024) char shared[];
    float *scratch = (float *)(shared + STAGES * STAGE);
    u32 *word = (u32 *)(scratch + WARPS * 16 * PIECE);
    const u32 barriers = shared_address(word + 2), warp = threadIdx.x / 32;
    auto stage = [&](u32 slice) { return shared_address(shared) + slice % STAGES * STAGE; };
    auto full = [&](u32 slice) { return barriers + slice % STAGES * 16; };
    auto empty = [&](u32 slice) { return full(slice) + 8; };
    auto round = [&](u32 slice) { return slice / STAGES % 2; };  // the parity of both
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; s++) barrier_init(full(s), 1), barrier_init(empty(s), WARPS);
        barrier_init_done();
        prefetch_map(a), prefetch_map(b);
    }
    __syncthreads();

    const u32 across = (p.n + TILE_N - 1) / TILE_N, units = (p.m + TILE_M - 1) / TILE_M * across * p.splits;
    const u32 slices = (p.k + DEPTH - 1) / DEPTH, each = (slices + p.splits - 1) / p.splits;
    struct Unit { u32 tile, split, i, j, first, count; };  // i, j: of c; first, count: slices
    auto which = [&](u32 unit) -> Unit {
        const u32 tile = unit / p.splits, split = unit % p.splits, first = min(split * each, slices);
        return {tile, split, tile / across * TILE_M, tile % across * TILE_N, first, min(each, slices - first)};
    };
    u32 slice = 0;  // of all units that this block has had: it says which stage, and in which of its rounds
    // The registers of a block, 168 for each of its threads, go where the sums are.
    if (warp >= WARPS) {
        fewer_registers<FEWER>();
        if (threadIdx.x != SUMMING) return;
        for (u32 next = blockIdx.x; next < units; next += gridDim.x) {
            const Unit unit = which(next);
            for (u32 k = unit.first * DEPTH, end = k + unit.count * DEPTH; k < end; k += DEPTH, slice++) {
                if (slice >= STAGES) barrier_wait(empty(slice), round(slice - STAGES));
                barrier_arrive_and_expect(full(slice), STAGE);
                const u32 of_a = stage(slice), of_b = of_a + BYTES_OF_A;
                if (!A_TRANSPOSED) copy_box(of_a, a, unit.i, k, full(slice));
                if (B_TRANSPOSED) copy_box(of_b, b, unit.j, k, full(slice));
                for (u32 i = 0; A_TRANSPOSED && i < TILE_M; i += 64)
                    copy_box(of_a + i / 64 * BOX, a, k, unit.i + i, full(slice));
                for (u32 j = 0; !B_TRANSPOSED && j < TILE_N; j += 64)
                    copy_box(of_b + j / 64 * BOX, b, k, unit.j + j, full(slice));
            }
        }
    } else {
        more_registers<MORE>();
        auto done = [&](u32 slice) {
            if (threadIdx.x % 32 == 0) barrier_arrive(empty(slice));
        };
        for (u32 next = blockIdx.x; next < units; next += gridDim.x) {
            const Unit unit = which(next);
            float sums[4 * EACH] = {};
            prefetch(p, unit.i + warp * 16, unit.j, with, c);
            for (u32 i = 0; i < unit.count; i++, slice++) {
                barrier_wait(full(slice), round(slice));
                const u32 of_a = stage(slice) + warp / 4 * BOX, of_b = stage(slice) + BYTES_OF_A;
                multiply_begin();
#pragma unroll
                for (u32 k = 0; k < DEPTH; k += STEP)
                    multiply_boxes<TILE_N, !A_TRANSPOSED, B_TRANSPOSED>(
                        sums, of_a + k * (A_TRANSPOSED ? 128 : 2), of_b + k * (B_TRANSPOSED ? 2 : 128));
                multiply_commit();
                multiply_wait<1>(sums);
                if (i > 0) done(slice - 1);
            }
            multiply_wait<0>(sums);
            if (unit.count > 0) done(slice - 1);
            const u64 of_tile = (u64)unit.tile * p.splits * TILE_M * TILE_N;
            if (p.splits > 1 &&
                !all_arrived(sums, p.splits, unit.split, partial + of_tile, counters + unit.tile, word)) continue;
            write(p, sums, unit.i + warp * 16, unit.j, with, c, scratch + warp * 16 * PIECE);
        }
    }
}
