// What CUDA C++ has and C++ has not, as far as this project's kernels use it. Put in front of a kernel's text, so that
// a C++ compiler takes it. Threads are fibers on one CPU thread (fibers.h): an atomic is a plain read and write, a
// fence is nothing, and everything that waits goes through the Runtime.

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "runtime.h"

// __global__, __launch_bounds__ and __shared__ are left to nvrtc.cpp, which needs to see them.
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

// NVRTC does not have them.
#undef INFINITY
#undef NAN
#undef HUGE_VAL
#undef M_PI
#undef M_SQRT1_2

using uint3 = cuda_on_cpu::Dim;
struct dim3 : cuda_on_cpu::Dim {
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : Dim{x, y, z} {}
};

extern "C" {
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
cuda_on_cpu::Runtime *cuda_on_cpu_runtime;
// The linker gives this place the name `shared`, by which kernels declare it with a type of their own.
__attribute__((aligned(1024), used)) char cuda_on_cpu_shared[cuda_on_cpu::SHARED_BYTES + cuda_on_cpu::SHARED_MARGIN];
}

enum { warpSize = 32 };

// Vectors, aligned as on the device.

#define CUDA_ON_CPU_VECTOR(T, name, align2, align4)                                       \
    struct alignas(align2) name##2 { T x, y; };                                           \
    struct name##3 { T x, y, z; };                                                        \
    struct alignas(align4) name##4 { T x, y, z, w; };                                     \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                            \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                    \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define uint3 cuda_on_cpu_uint3  // stands above already
CUDA_ON_CPU_VECTOR(float, float, 8, 16)
CUDA_ON_CPU_VECTOR(double, double, 16, 16)
CUDA_ON_CPU_VECTOR(int, int, 8, 16)
CUDA_ON_CPU_VECTOR(unsigned, uint, 8, 16)
CUDA_ON_CPU_VECTOR(short, short, 4, 8)
CUDA_ON_CPU_VECTOR(unsigned short, ushort, 4, 8)
CUDA_ON_CPU_VECTOR(long long, longlong, 16, 16)
CUDA_ON_CPU_VECTOR(unsigned long long, ulonglong, 16, 16)
#undef uint3

// Barriers, votes and shuffles.

inline void __syncthreads(CUDA_ON_CPU_PLACE) { cuda_on_cpu_runtime->barrier("__syncthreads", false, place); }
inline int __syncthreads_count(int yes, CUDA_ON_CPU_PLACE) {
    return (int)cuda_on_cpu_runtime->barrier("__syncthreads_count", yes, place);
}
inline int __syncthreads_or(int yes, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu_runtime->barrier("__syncthreads_or", yes, place) != 0;
}
inline int __syncthreads_and(int yes, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu_runtime->barrier("__syncthreads_and", !yes, place) == 0;
}

namespace cuda_on_cpu {

// Brings `brought` to the lanes of mask; `operation` takes an array of 32 pointers, null where a lane takes no part.
template <class T, class F>
inline void together(const char *name, T &brought, F operation, unsigned mask, bool whole, Place place) {
    static_assert(std::is_empty<F>::value, "a warp's operation captures nothing: any of its lanes may perform it");
    static F perform = operation;
    Operation erased = [](void *const *lanes) { perform((T *const *)lanes); };
    cuda_on_cpu_runtime->together(name, erased, &brought, mask, whole, place);
}

struct Vote { bool yes; unsigned ballot; };
inline unsigned vote(const char *name, unsigned mask, bool yes, Place place) {
    Vote mine = {yes, 0};
    auto operation = [](Vote *const *lanes) {
        unsigned ballot = 0;
        for (int i = 0; i < 32; i++) ballot |= lanes[i] && lanes[i]->yes ? 1u << i : 0;
        for (int i = 0; i < 32; i++)
            if (lanes[i]) lanes[i]->ballot = ballot;
    };
    together(name, mine, operation, mask, false, place);
    return mine.ballot;
}

inline int lane() { return cuda_on_cpu_runtime->thread % 32; }

// What lane `from` brought; bytes of 0xFF where that lane takes no part, which on a device is undefined.
template <class T> struct Shuffle { T value, answer; int from; };
template <class T> inline T shuffle(const char *name, unsigned mask, T value, int from, Place place) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    Shuffle<T> mine = {value, value, from};
    auto operation = [](Shuffle<T> *const *lanes) {
        for (int i = 0; i < 32; i++) {
            if (!lanes[i]) continue;
            if (auto *other = lanes[lanes[i]->from]) lanes[i]->answer = other->value;
            else memset(&lanes[i]->answer, 0xFF, sizeof(T));
        }
    };
    together(name, mine, operation, mask, false, place);
    return mine.answer;
}

}  // namespace cuda_on_cpu

inline void __syncwarp(unsigned mask = ~0u, CUDA_ON_CPU_PLACE) {
    int nothing = 0;
    cuda_on_cpu::together("__syncwarp", nothing, [](int *const *) {}, mask, false, place);
}
inline unsigned __ballot_sync(unsigned mask, int yes, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu::vote("__ballot_sync", mask, yes, place);
}
inline int __any_sync(unsigned mask, int yes, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu::vote("__any_sync", mask, yes, place) != 0;
}
inline int __all_sync(unsigned mask, int yes, CUDA_ON_CPU_PLACE) {
    return cuda_on_cpu::vote("__all_sync", mask, !yes, place) == 0;
}
template <class T> inline T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_ON_CPU_PLACE) {
    const int first = cuda_on_cpu::lane() & -width;
    return cuda_on_cpu::shuffle("__shfl_sync", mask, value, first | (from & (width - 1)), place);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_ON_CPU_PLACE) {
    const int lane = cuda_on_cpu::lane(), from = lane - (int)by;
    return cuda_on_cpu::shuffle("__shfl_up_sync", mask, value, from < (lane & -width) ? lane : from, place);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_ON_CPU_PLACE) {
    const int lane = cuda_on_cpu::lane(), from = lane + (int)by;
    return cuda_on_cpu::shuffle("__shfl_down_sync", mask, value, from >= (lane & -width) + width ? lane : from, place);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_ON_CPU_PLACE) {
    const int lane = cuda_on_cpu::lane(), from = lane ^ bits;
    return cuda_on_cpu::shuffle("__shfl_xor_sync", mask, value, from >= (lane & -width) + width ? lane : from, place);
}

// Memory.

inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T> inline T __ldg(const T *from) { return *from; }
template <class T> inline T __ldcg(const T *from) { return *from; }
template <class T> inline T __ldcs(const T *from) { return *from; }
template <class T> inline void __stcg(T *to, T value) { *to = value; }
template <class T> inline void __stcs(T *to, T value) { *to = value; }

namespace cuda_on_cpu {
template <class T> struct Same { using Type = T; };  // the value's type follows the address's
template <class T> inline T replace(T *at, T value) {
    T old = *at;
    *at = value;
    return old;
}
}  // namespace cuda_on_cpu
#define CUDA_ON_CPU_ATOMIC(name, result)                                                 \
    template <class T> inline T name(T *at, typename cuda_on_cpu::Same<T>::Type value) { \
        return cuda_on_cpu::replace<T>(at, result);                                      \
    }
CUDA_ON_CPU_ATOMIC(atomicAdd, *at + value)
CUDA_ON_CPU_ATOMIC(atomicSub, *at - value)
CUDA_ON_CPU_ATOMIC(atomicExch, value)
CUDA_ON_CPU_ATOMIC(atomicMin, *at < value ? *at : value)
CUDA_ON_CPU_ATOMIC(atomicMax, *at > value ? *at : value)
CUDA_ON_CPU_ATOMIC(atomicAnd, *at & value)
CUDA_ON_CPU_ATOMIC(atomicOr, *at | value)
CUDA_ON_CPU_ATOMIC(atomicInc, *at >= value ? 0 : *at + 1)
template <class T>
inline T atomicCAS(T *at, typename cuda_on_cpu::Same<T>::Type expected, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::replace<T>(at, *at == expected ? value : *at);
}

// Numbers.

#define CUDA_ON_CPU_MIN_MAX(A, B, T)                                   \
    inline T min(A a, B b) { return (T)a < (T)b ? (T)a : (T)b; }       \
    inline T max(A a, B b) { return (T)a > (T)b ? (T)a : (T)b; }
CUDA_ON_CPU_MIN_MAX(int, int, int)
CUDA_ON_CPU_MIN_MAX(unsigned, unsigned, unsigned)
CUDA_ON_CPU_MIN_MAX(int, unsigned, unsigned)
CUDA_ON_CPU_MIN_MAX(unsigned, int, unsigned)
CUDA_ON_CPU_MIN_MAX(long, long, long)
CUDA_ON_CPU_MIN_MAX(unsigned long, unsigned long, unsigned long)
CUDA_ON_CPU_MIN_MAX(long, unsigned long, unsigned long)
CUDA_ON_CPU_MIN_MAX(unsigned long, long, unsigned long)
CUDA_ON_CPU_MIN_MAX(long long, long long, long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
CUDA_ON_CPU_MIN_MAX(long long, unsigned long long, unsigned long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long, long long, unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }  // of a number and a NaN, the number: as on the device
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }

namespace cuda_on_cpu {
template <class To, class From> inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
}  // namespace cuda_on_cpu
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::bits<float>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu::bits<float>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::bits<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_on_cpu::bits<int>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) {
    return by & 31 ? hi << (by & 31) | lo >> (32 - (by & 31)) : hi;
}

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline float __saturatef(float x) { return x > 0 ? fminf(x, 1) : 0; }
inline float rsqrtf(float x) { return (float)(1 / sqrt((double)x)); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
inline float normcdf(float x) { return normcdff(x); }

// A kernel from the outside. nvrtc.cpp adds, for each kernel K,
//     extern "C" const cuda_on_cpu::Entry K__entry = cuda_on_cpu::entry<K>(what stands in its __launch_bounds__);

namespace cuda_on_cpu {

template <auto KERNEL, class... A, size_t... I>
inline Entry entry(void (*)(A...), unsigned threads, std::index_sequence<I...>) {
    static constexpr Argument list[] = {{sizeof(A), std::is_pointer<A>::value}..., {0, false}};
    auto launch = []([[maybe_unused]] void **arguments) { KERNEL(*(A *)arguments[I]...); };
    return {launch, list, threads};
}
template <class... A> constexpr auto indices_of(void (*)(A...)) { return std::index_sequence_for<A...>(); }
template <auto KERNEL> inline Entry entry(unsigned threads, unsigned = 0, unsigned = 0) {
    return entry<KERNEL>(KERNEL, threads, indices_of(KERNEL));
}

}  // namespace cuda_on_cpu
