// Products in the elements' own precision: c ← a b + what is added, for each of a batch. (On tensor cores:
// tensor_cores.cu.)
//
// A block computes a tile of c, TILE × TILE. A thread has 8 × COLS of its sums in registers: for each step of the
// reduction it reads 8 numbers of a and COLS of b, and multiplies each with each. So few reads feed many products:
//
//   memory → shared memory      The reduction goes in slices of DEPTH steps, of which some are on their way, copied
//                               behind the threads' backs, while one is multiplied (`Operand`).
//   shared memory → registers   Four neighbors at a time. Those of a step are read while the step before is multiplied.
//   sums → c                    Four neighbors at a time, where rows begin at multiples of 16 bytes.
//
// In shared memory a slice has a row for each step, of TILE lines (rows of a, columns of b). An operand whose neighbors
// in memory are neighbors of the reduction is turned on the way there, a number at a time.
//
// There is one barrier for a slice: it says that the next slice is there for all, and that all have read this one.
//
// Where the reduction is long and tiles are few, it is cut in `splits`, each the work of one block. The last block to
// come adds up the sums of all, in their order, whoever came last: the same bits on every run.
//
// The host defines TILE; COLS, 4 or 8; STAGES: slices in shared memory; A_TRANSPOSED, B_TRANSPOSED; ALIGNED: whether
// four neighbors of c, of what is added, and of an operand that is not turned begin at multiples of 16 bytes.

enum {
    ROWS = 8,
    THREADS = TILE / ROWS * (TILE / COLS),
    DEPTH = 16,        // of the reduction, in a slice
    PITCH = TILE + 4,  // so that 4 lines of 8 steps fall in different banks when they are turned
};

struct Products {
    u64 a_step, b_step, c_step;  // from one matrix of the batch to the next
    u32 m, k, n, batch;
    u32 summed;  // the products of the batch are added up
    u32 own, splits, unused;
};

struct __align__(16) Four {
    T x[4];
    __device__ __forceinline__ void add(const Four &more) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) x[e] += more.x[e];
    }
};

// Four neighbors, or as many of them as there are.
__device__ __forceinline__ Four read(const T *at, u32 count) {
    if (ALIGNED) return *(const Four *)at;
    Four four = {};
#pragma unroll
    for (u32 e = 0; e < 4; e++)
        if (e < count) four.x[e] = at[e];
    return four;
}
__device__ __forceinline__ void write(T *at, const Four &four, u32 count) {
    if (ALIGNED) *(Four *)at = four;
    else
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            if (e < count) at[e] = four.x[e];
}

// What a thread copies of an operand, one slice after the other: of lines from `first` on, of which there are `all`.
// ALONG_DEPTH says that neighbors in memory are neighbors of the reduction, so that rows of memory are lines: then a
// warp copies 8 numbers, 32 bytes, of each of 4. Outside of the matrix are zeros.
template <bool ALONG_DEPTH> struct Operand {
    static constexpr u32 AT_ONCE = ALIGNED && !ALONG_DEPTH ? 4 : 1;  // numbers in a copy
    // Rows of memory in a slice, and how many of them the block copies at once.
    static constexpr u32 DOWN = ALONG_DEPTH ? TILE : DEPTH;
    static constexpr u32 GAP = ALONG_DEPTH ? THREADS / 8 : THREADS * AT_ONCE / TILE;
    static_assert(GAP > 0 && DOWN % GAP == 0, "every thread copies as much");

    const T *from;     // the first number of the next slice
    u32 length, step;  // of a row; the first number's place in the reduction
    u32 lines, to;     // from the first number's on; where it goes in a slice

    __device__ __forceinline__ Operand(const T *matrix, u32 first, u32 all, u32 k, u32 start) {
        const u32 at = threadIdx.x * AT_ONCE, line = ALONG_DEPTH ? at / 8 : at % TILE;
        step = ALONG_DEPTH ? at % 8 : at / TILE, to = step * PITCH + line, length = ALONG_DEPTH ? k : all;
        lines = first + line < all ? all - first - line : 0;
        const u64 row = ALONG_DEPTH ? first + line : start + step, column = ALONG_DEPTH ? start + step : first + line;
        from = matrix + row * length + column;
    }

    // From one slice to the next.
    __device__ __forceinline__ u64 slice() const { return ALONG_DEPTH ? DEPTH : (u64)DEPTH * length; }
    // From behind one matrix to the first slice of the one `matrix_step` after it.
    __device__ __forceinline__ void next(u64 matrix_step, u32 k) {
        from += matrix_step - (k + DEPTH - 1) / DEPTH * slice();
    }

    // Begins to copy a slice, of which `left` steps exist.
    __device__ __forceinline__ void bring(T *tile, u32 left) {
        const u32 address = shared_address(tile + to);
#pragma unroll
        for (u32 row = 0; row < DOWN; row += GAP)
#pragma unroll
            for (u32 d = 0; d < (ALONG_DEPTH ? DEPTH : 1); d += 8) {
                const bool there = (ALONG_DEPTH ? row : 0) < lines && step + (ALONG_DEPTH ? d : row) < left;
                const u32 place = address + (ALONG_DEPTH ? d * PITCH + row : row * PITCH) * sizeof(T);
                const char *numbers = (const char *)(from + (u64)length * row + d);
#pragma unroll
                for (u32 b = 0; b < AT_ONCE * sizeof(T); b += AT_ONCE * 4)
                    if (AT_ONCE == 4) copy_async_16(place + b, numbers + b, there ? 16 : 0);
                    else copy_async_4(place + b, numbers + b, there ? 4 : 0);
            }
        from += slice();
    }
};

// grid.x: the batch and, running faster, tiles of c, of which the columns' index runs fastest; grid.y: splits. partial:
// of each block that shares its tile the sums, as its threads have them.
extern "C" __global__ void __launch_bounds__(THREADS, THREADS == 128 ? 3 : 2) products(
    const Products p, const T *a, const T *b, const T *bias, const T *residual, T *c, T *partial, u32 *counters) {
    extern __shared__ __align__(128) char shared[];
    auto tile_of_a = [&](u32 slice) { return (T *)shared + slice % STAGES * (2 * DEPTH * PITCH); };
    auto tile_of_b = [&](u32 slice) { return tile_of_a(slice) + DEPTH * PITCH; };
    const u32 down = (p.m + TILE - 1) / TILE, across = (p.n + TILE - 1) / TILE, batch = blockIdx.x / (down * across);
    const u32 i0 = blockIdx.x / across % down * TILE, j0 = blockIdx.x % across * TILE;
    // A warp is 4 × 8 threads, neighbors in turns beside and below each other: so pairs of them read the same four.
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 y = warp / 2 * 4 + (lane / 16 * 2 | lane / 2 % 2), x = warp % 2 * 8 + (lane / 4 % 4 * 2 | lane % 2);
    // The slices of all products that are added up, in a row.
    const u32 of_one = (p.k + DEPTH - 1) / DEPTH, slices = p.summed ? of_one * p.batch : of_one;
    const u32 each = (slices + p.splits - 1) / p.splits, first = min(blockIdx.y * each, slices);
    const u32 count = min(each, slices - first), matrix = p.summed && of_one ? first / of_one : batch;
    u32 k = p.summed ? (first - matrix * of_one) * DEPTH : first * DEPTH;
    Operand<!A_TRANSPOSED> of_a(a + matrix * p.a_step, i0, p.m, p.k, k);
    Operand<B_TRANSPOSED> of_b(b + matrix * p.b_step, j0, p.n, p.k, k);

    auto bring = [&](u32 slice) {
        if (slice < count) {
            of_a.bring(tile_of_a(slice), p.k - k), of_b.bring(tile_of_b(slice), p.k - k);
            k += DEPTH;
            if (k >= p.k) k = 0, of_a.next(p.a_step, p.k), of_b.next(p.b_step, p.k);
        }
        copy_async_commit();  // an empty group too, so that to count groups is to count slices
    };
    // Numbers of two steps: those that are multiplied, those that are read.
    Four left[2][ROWS / 4], right[2][COLS / 4], sums[ROWS][COLS / 4] = {};
    auto read_step = [&](u32 slice, u32 step) {
        const T *of_left = tile_of_a(slice) + step * PITCH + 4 * y, *of_right = tile_of_b(slice) + step * PITCH + 4 * x;
#pragma unroll
        for (u32 i = 0; i < ROWS / 4; i++) left[step % 2][i] = *(const Four *)(of_left + i * (TILE / 2));
#pragma unroll
        for (u32 j = 0; j < COLS / 4; j++) right[step % 2][j] = *(const Four *)(of_right + j * (TILE / 2));
    };
    // Until the next slice is there for all, and all have read what it will be followed by.
    auto arrive = [&] {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
    };

    for (u32 slice = 0; slice < STAGES - 1; slice++) bring(slice);
    arrive();
    read_step(0, 0);
    for (u32 slice = 0; slice < count; slice++) {
#pragma unroll
        for (u32 step = 0; step < DEPTH; step++) {
            if (step + 1 < DEPTH) read_step(slice, step + 1);
            else arrive(), read_step(slice + 1, 0);  // of no slice, behind the last: it is not multiplied
            if (step == 0) bring(slice + STAGES - 1);  // to where the slice before this one was
#pragma unroll
            for (u32 i = 0; i < ROWS; i++)
#pragma unroll
                for (u32 j = 0; j < COLS; j++)
                    sums[i][j / 4].x[j % 4] += left[step % 2][i / 4].x[i % 4] * right[step % 2][j / 4].x[j % 4];
        }
    }

    if (p.splits > 1) {
        const u64 gap = (u64)ROWS * (COLS / 4) * THREADS;
        Four *mine = (Four *)partial + blockIdx.x * p.splits * gap + threadIdx.x;
#pragma unroll
        for (u32 i = 0; i < ROWS * (COLS / 4); i++)
            mine[blockIdx.y * gap + i * THREADS] = sums[i / (COLS / 4)][i % (COLS / 4)];
        if (!comes_last(p.splits, counters + blockIdx.x, (u32 *)shared)) return;
#pragma unroll
        for (u32 i = 0; i < ROWS * (COLS / 4); i++) sums[i / (COLS / 4)][i % (COLS / 4)] = {};
#pragma unroll(TILE == 128 ? 1 : 2)
        for (u32 split = 0; split < p.splits; split++)
#pragma unroll
            for (u32 i = 0; i < ROWS * (COLS / 4); i++) {
                Four more;
#pragma unroll
                for (u32 b = 0; b < sizeof(Four) / 16; b++)
                    ((uint4 *)&more)[b] = __ldcg((const uint4 *)(mine + split * gap + i * THREADS) + b);
                sums[i / (COLS / 4)][i % (COLS / 4)].add(more);
            }
    }
    // What is added is read for all sums before one is written, so that no read waits behind a write.
#pragma unroll
    for (u32 pass = 0; pass < 2; pass++)
#pragma unroll
        for (u32 i = 0; i < ROWS; i++)
#pragma unroll
            for (u32 j = 0; j < COLS; j += 4) {
                const u32 line = i0 + 4 * y + i / 4 * (TILE / 2) + i % 4, column = j0 + 4 * x + j / 4 * (TILE / 2);
                if (line >= p.m || column >= p.n) continue;
                const u64 of = (u64)line * p.n + column, at = batch * p.c_step + of;
                Four &sum = sums[i][j / 4];
                if (pass == 1) {
                    write(c + at, sum, p.n - column);
                } else {
                    if (bias) sum.add(read(bias + column, p.n - column));
                    if (residual) sum.add(read(residual + of, p.n - column));
                    if (p.own) sum.add(read(c + at, p.n - column));
                }
            }
}
