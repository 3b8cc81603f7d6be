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

#endif

__device__ __forceinline__ float from_bf16(u16 x) { return __uint_as_float((u32)x << 16); }

// A number from memory and to it, whatever it is stored as.
__device__ __forceinline__ float get(const u16 *at) { return from_bf16(*at); }
__device__ __forceinline__ float get(const float *at) { return *at; }
__device__ __forceinline__ double get(const double *at) { return *at; }
__device__ __forceinline__ void put(u16 *at, float x) { *at = (u16)pack_bf16(x, 0); }
__device__ __forceinline__ void put(float *at, float x) { *at = x; }
__device__ __forceinline__ void put(double *at, double x) { *at = x; }
