// Each hardware instruction that CUDA C++ has no word for, as one function: PTX on a GPU; on a CPU, where the tests run
// every kernel, its definition in plain C++ (tests/cuda_on_cpu/primitives_on_cpu.h). This text stands in front of every
// kernel's.
//
// Shared memory is named by its 32-bit address (`shared_address`). Of a lane l of a warp, g = l / 4 and t = l % 4.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef CUDA_ON_CPU

__device__ __forceinline__ u32 shared_address(const void *at) { return (u32)__cvta_generic_to_shared(at); }

// Shared memory, 4 or 2 bytes.
__device__ __forceinline__ u32 load_shared(u32 at) {
    u32 x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
    return x;
}
__device__ __forceinline__ void store_shared(u32 at, u32 x) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(x) : "memory");
}
__device__ __forceinline__ void store_shared(u32 at, u16 x) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(at), "h"(x) : "memory");
}

// Copies from global to shared memory that go on while the thread does: `bytes` (0 to 16, or 0 to 4), the rest zeros.
// They are there for this thread after the wait, for others after a barrier that follows it.
__device__ __forceinline__ void copy_async_16(u32 to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_4(u32 to, const void *from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Closes a group: the copies since the last one.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all groups but the PENDING newest have arrived.
template <int PENDING> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four matrices of 8 × 8 16-bit numbers. Lane l says where row l % 8 of matrix l / 8 begins (a multiple of 16 bytes);
// r[i] receives the numbers 2t and 2t + 1 of row g of matrix i.
__device__ __forceinline__ void load_matrices(u32 *r, u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// The same, of the transposed matrices: column g, rows 2t and 2t + 1.
__device__ __forceinline__ void load_matrices_transposed(u32 *r, u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// D += A B of a warp, D 16 × 8 in f32: d[0], d[1] are row g, columns 2t and 2t + 1; d[2], d[3] the same of row g + 8.
// bf16, A 16 × 16, B 16 × 8, two numbers a register: a[0] row g, columns 2t and 2t + 1; a[1] row g + 8; a[2], a[3] the
// same 8 columns on; b0 rows 2t and 2t + 1 of column g; b1 the same 8 rows on.
__device__ __forceinline__ void mma_bf16(float *d, const u32 *a, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// tf32 (f32 of which the lower 13 bits are ignored), A 16 × 8, B 8 × 8: a[0] row g, column t; a[1] row g + 8; a[2],
// a[3] the same 4 columns on; b0 row t of column g; b1 the same 4 rows on.
__device__ __forceinline__ void mma_tf32(float *d, const u32 *a, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The nearest tf32, of two equally near the one further from zero.
__device__ __forceinline__ u32 round_tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}
// The nearest bf16, of two equally near the even one; `lo` in the lower half.
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}

// 2ˣ to 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Hopper (sm_90a) alone: a copy engine that fetches boxes of a matrix, and products of four warps that read both
// operands from shared memory, where the boxes lie. Both go on behind the threads' backs.

// A barrier in 8 bytes of shared memory, gone through in phases, the first of which has the parity 0. A phase ends when
// `count` threads have arrived, and the bytes that they said to expect.
__device__ __forceinline__ void barrier_init(u32 at, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
// So that the copy engine sees what was initialized; other threads do after __syncthreads.
__device__ __forceinline__ void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// Arrives, and says that so many bytes are to come.
__device__ __forceinline__ void barrier_arrive_and_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended: it is the one that goes on, or the one before it.
__device__ __forceinline__ void barrier_wait(u32 at, u32 parity) {
    u32 ended;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(ended) : "r"(at), "r"(parity) : "memory");
    } while (!ended);
}

// The copy engine's description of a matrix of bf16 and the size of its boxes, 64 columns and some rows (made by
// cuTensorMapEncodeTiled).
struct __align__(64) TensorMap { u64 opaque[16]; };
// Fetches the box whose first element is (row, column) to shared memory, from a multiple of 1024 bytes on: rows of 128
// bytes, in each of which the 16-byte chunk c of row r stands at the place c ^ r % 8, so that a chunk of eight rows falls
// in different banks. What is outside the matrix is zeros. The bytes of the whole box arrive at the barrier.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap &of, u32 row, u32 column, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(&of), "r"(column), "r"(row), "r"(barrier) : "memory");
}
// Has the description fetched before it is used.
__device__ __forceinline__ void prefetch_map(const TensorMap &of) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&of) : "memory");
}

// D += A B of a group of four warps, A 64 × 16, B 16 × N, in bf16 where copy_box left them; D in f32. Of D, warp w of the
// group holds rows 16 w to 16 w + 15, as mma_bf16 has them: 4 numbers for 8 columns, N / 8 times.
//
// Where an operand lies ALONG the reduction its boxes' rows are its lines (of A the rows, of B the columns), and the
// address is that of the first line's first element: 32 bytes further for the next 16 of the reduction. Else rows are of
// the reduction, boxes of 64 lines by 64 stand one after the other, and the next 16 are 2048 bytes further.
//
// All of it happens some time between the call and the wait for its group: until then D and both operands belong to it.
template <u32 N, bool A_ALONG, bool B_ALONG> __device__ __forceinline__ void multiply_boxes(float *d, u32 a, u32 b) {
    // Both operands as the hardware wants to be told: address, bytes from 64 lines to the next 64 (across alone), from
    // 8 rows to the next 8, in units of 16, and the order of chunks.
    auto place = [](u32 at, bool along) {
        return (u64)(at >> 4) | (u64)(along ? 1 : 8192 >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
    };
    const u64 of_a = place(a, A_ALONG), of_b = place(b, B_ALONG);
#define TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define TO_59 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9," TEN(1) TEN(2) TEN(3) TEN(4) TEN(5)
#define SUMS_8(i)                                                                                             \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define MULTIPLY(shape, sums, operands, ...)                                                                     \
    asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned." shape                       \
                 ".f32.bf16.bf16 {" sums "}, " operands "}"                                                     \
                 : __VA_ARGS__ : "l"(of_a), "l"(of_b), "n"(!A_ALONG), "n"(!B_ALONG))
    if constexpr (N == 128) {
        MULTIPLY("m64n128k16", TO_59 "%60,%61,%62,%63", "%64, %65, p, 1, 1, %66, %67;", SUMS_32(0), SUMS_32(32));
    } else if constexpr (N == 192) {
        MULTIPLY("m64n192k16", TO_59 TEN(6) TEN(7) TEN(8) "%90,%91,%92,%93,%94,%95", "%96, %97, p, 1, 1, %98, %99;",
                 SUMS_32(0), SUMS_32(32), SUMS_32(64));
    } else {
        static_assert(N == 256, "the sizes that are written out");
        MULTIPLY("m64n256k16",
                 TO_59 TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127",
                 "%128, %129, p, 1, 1, %130, %131;", SUMS_32(0), SUMS_32(32), SUMS_32(64), SUMS_32(96));
    }
#undef TEN
#undef TO_59
#undef SUMS_8
#undef SUMS_32
#undef MULTIPLY
}
// Before the first product of a group: what the threads did with D is done.
__device__ __forceinline__ void multiply_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes a group: the products since the last one.
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until all groups but the PENDING newest are done. After 0 D is the threads' own, which `d` tells the compiler.
template <int PENDING, u32 N> __device__ __forceinline__ void multiply_wait(float (&d)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    if constexpr (PENDING == 0) {
#pragma unroll
        for (u32 i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
    }
}

// Of the registers that a block has, those of four warps become so many a thread: fewer than before, or more once others
// have given up theirs. All four call it.
template <u32 N> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <u32 N> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// sum ← sum + x · N numbers of one lane of a warp, whose threads all come.
template <int N, typename X> __device__ __forceinline__ void add_broadcast(X (&sum)[N], const X *from, int lane, X x) {
    for (int i = 0; i < N; i++) sum[i] += __shfl_sync(~0u, from[i], lane) * x;
}

// A barrier of so many threads of a block, whole warps; each ID of 1 to 15 is one of its own.
template <u32 ID, u32 THREADS> __device__ __forceinline__ void barrier_of() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}

// Asks for so many bytes, a multiple of 16 from a multiple of 16 on, to be brought to the level-2 cache.
__device__ __forceinline__ void prefetch(const void *at, u32 bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
}

#endif

__device__ __forceinline__ float from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }

// A number from memory and to it, whatever it is stored as.
__device__ __forceinline__ float get(const u16 *at) { return from_bf16(*at); }
__device__ __forceinline__ float get(const float *at) { return *at; }
__device__ __forceinline__ double get(const double *at) { return *at; }
__device__ __forceinline__ void put(u16 *at, float x) { *at = (u16)pack_bf16(x, 0); }
__device__ __forceinline__ void put(float *at, float x) { *at = x; }
__device__ __forceinline__ void put(double *at, double x) { *at = x; }
