// Products in the elements' own precision: c ← a b + what is added, for each of a batch. (On tensor cores: tensor_cores.cu.)
//
// A block of 256 threads computes a tile of TILE × TILE numbers of c, a thread SIDE × SIDE of them, in registers. The reduction goes
// in slices of DEPTH: the block copies a slice of a and of b to shared memory, then every thread multiplies what it needs of
// it. An operand is a pointer and two strides, so a transposed one is read as it lies; the threads that copy walk along whichever
// index has stride 1.
//
// Where the reduction is long and tiles are few, it is cut in `splits`, whose sums `finish` adds up in their order.

enum { TILE = 64, SIDE = 4, DEPTH = 16, LINES = TILE / SIDE, PITCH = TILE + 4 };

struct Products {
    u64 m, k, n, batch;
    u64 a_step, b_step, c_step;  // from one matrix of the batch to the next
    u64 a_row, a_col, b_row, b_col;
    u32 summed;  // the products of the batch are added up
    u32 own, splits;
};

// c[i, j] ← sum + what is added.
__device__ __forceinline__ void write(const Products &p, u64 batch, u64 i, u64 j, T sum, const T *bias, const T *residual, T *c) {
    const u64 at = batch * p.c_step + i * p.n + j;
    if (bias) sum += bias[j];
    if (residual) sum += residual[i * p.n + j];
    c[at] = p.own ? c[at] + sum : sum;
}

// One slice of an operand, (TILE, DEPTH), to tile[depth][line]; outside of the matrix zeros.
__device__ __forceinline__ void load(T (*tile)[PITCH], const T *from, u64 line_step, u64 depth_step, u64 lines, u64 depths) {
    for (u32 i = threadIdx.x; i < TILE * DEPTH; i += 256) {
        const bool along_depth = depth_step == 1;
        const u32 line = along_depth ? i / DEPTH : i % TILE, depth = along_depth ? i % DEPTH : i / TILE;
        const bool inside = line < lines && depth < depths;
        tile[depth][line] = inside ? from[line * line_step + depth * depth_step] : T(0);
    }
}

// grid.x: tiles of c, the columns' index running faster; grid.y: splits; grid.z: the batch, or as much of it as fits.
extern "C" __global__ void __launch_bounds__(256) products(
    const Products p, const T *a, const T *b, const T *bias, const T *residual, T *c, T *partial) {
    extern __shared__ __align__(128) char shared[];
    T(*of_a)[PITCH] = (T(*)[PITCH])shared, (*of_b)[PITCH] = of_a + DEPTH;
    const u64 across = (p.n + TILE - 1) / TILE, i0 = blockIdx.x / across * TILE, j0 = blockIdx.x % across * TILE;
    const u32 y = threadIdx.x / LINES, x = threadIdx.x % LINES;
    // The slices of all products that are added up, in a row.
    const u64 slices_of_one = (p.k + DEPTH - 1) / DEPTH, slices = p.summed ? slices_of_one * p.batch : slices_of_one;
    const u64 each = (slices + p.splits - 1) / p.splits, first = blockIdx.y * each;
    const u64 end = first + each < slices ? first + each : slices;
    const u64 batches = p.summed ? 1 : p.batch;
    for (u64 batch = blockIdx.z; batch < batches; batch += gridDim.z) {
        T sums[SIDE][SIDE] = {};
        for (u64 slice = first; slice < end; slice++) {
            const u64 matrix = p.summed ? slice / slices_of_one : batch, k0 = slice % slices_of_one * DEPTH;
            load(of_a, a + matrix * p.a_step + i0 * p.a_row + k0 * p.a_col, p.a_row, p.a_col, p.m - i0, p.k - k0);
            load(of_b, b + matrix * p.b_step + k0 * p.b_row + j0 * p.b_col, p.b_col, p.b_row, p.n - j0, p.k - k0);
            __syncthreads();
#pragma unroll
            for (int l = 0; l < DEPTH; l++) {
                T left[SIDE], right[SIDE];
#pragma unroll
                for (int s = 0; s < SIDE; s++) left[s] = of_a[l][y * SIDE + s], right[s] = of_b[l][x + s * LINES];
#pragma unroll
                for (int s = 0; s < SIDE; s++)
#pragma unroll
                    for (int t = 0; t < SIDE; t++) sums[s][t] += left[s] * right[t];
            }
            __syncthreads();
        }
#pragma unroll
        for (int s = 0; s < SIDE; s++)
#pragma unroll
            for (int t = 0; t < SIDE; t++) {
                const u64 i = i0 + y * SIDE + s, j = j0 + x + t * LINES;
                if (i >= p.m || j >= p.n) continue;
                if (p.splits == 1) write(p, batch, i, j, sums[s][t], bias, residual, c);
                else partial[((batch * p.splits + blockIdx.y) * p.m + i) * p.n + j] = sums[s][t];
            }
    }
}

extern "C" __global__ void finish(const Products p, const T *bias, const T *residual, const T *partial, T *c) {
    const u64 size = p.m * p.n, batches = p.summed ? 1 : p.batch;
    EACH_ELEMENT(at, batches * size) {
        const u64 batch = at / size, of = at % size;
        T sum = 0;
        for (u32 split = 0; split < p.splits; split++) sum += partial[(batch * p.splits + split) * size + of];
        write(p, batch, of / p.n, of % p.n, sum, bias, residual, c);
    }
}
