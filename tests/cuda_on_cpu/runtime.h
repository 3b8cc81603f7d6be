// What the two sides of the emulator know of each other: a kernel's object (a .cu text compiled by C++ with device.h in
// front) and the driver (driver.cpp, fibers.h) that loads and runs it.
//
// The object exports threadIdx, blockIdx, blockDim and gridDim, its shared memory, and a pointer to the Runtime below;
// the driver writes all of them. It also exports, for a kernel K, the Entry K__entry.

#pragma once

namespace cuda_on_cpu {

struct Dim { unsigned x, y, z; };

// Where in the kernel's text something was called: as a default argument, the caller's place.
struct Place { const char *file; int line; };
#define CUDA_ON_CPU_PLACE ::cuda_on_cpu::Place place = {__builtin_FILE(), __builtin_LINE()}

struct Argument { unsigned size; bool pointer; };  // of a kernel; a list of them ends in size 0

struct Entry {
    void (*launch)(void **arguments);  // runs one thread; arguments as the driver gets them, an array of pointers
    const Argument *arguments;
    unsigned most_threads;  // of a block: __launch_bounds__
};

enum { SHARED_BYTES = 227 * 1024, SHARED_MARGIN = 256 };  // the most a block may have on any card; kept clear after it

// What lanes of a warp do together once all have arrived. lanes[i] is what lane i brought, null if it takes no part.
using Operation = void (*)(void *const *lanes);

// A matrix of 2-byte elements and the size of its boxes: what cuTensorMapEncodeTiled makes. 64 columns of a box fill the
// 128 bytes whose chunks are swizzled.
struct alignas(64) TensorMap {
    unsigned long long magic, address, rows, columns, pitch;  // bytes from row to row
    unsigned box_rows, unused[21];
    static constexpr unsigned long long MAGIC = 0x7061'6d20'6120'6d69;
};
static_assert(sizeof(TensorMap) == 128, "as the driver's");

struct Runtime {
    unsigned thread;           // number of the running thread within its block
    unsigned shared_bytes;     // of the running launch
    unsigned long long block;  // blocks that have begun, of all launches
    // Waits for all threads of the block; returns how many brought a predicate other than 0.
    unsigned (*barrier)(const char *name, bool predicate, Place);
    // Waits for the lanes of mask and performs the operation once, on what they brought. `whole` demands all 32 lanes.
    void (*together)(const char *name, Operation, void *brought, unsigned mask, bool whole, Place);
    // cp.async: `to` holds 0xFF bytes until a wait delivers.
    void (*copy_async)(void *to, const void *from, unsigned size, unsigned bytes, Place);
    void (*copy_async_commit)();
    void (*copy_async_wait)(unsigned pending);
    // The barrier of so many threads with this number.
    void (*barrier_of)(unsigned id, unsigned threads, Place);
    // mbarriers: `at` is in shared memory.
    void (*mbarrier_init)(void *at, unsigned count, Place);
    void (*mbarrier_arrive)(void *at, unsigned expected_bytes, Place);
    void (*mbarrier_wait)(void *at, unsigned parity, Place);
    // `to` holds 0xFF bytes until the box is there: at any time, in any order.
    void (*copy_box)(char *to, const TensorMap &, unsigned row, unsigned column, void *mbarrier, Place);
    void (*prefetch)(const void *from, unsigned bytes, Place);
    // Reports what the running thread did wrong, and aborts.
    void (*fail)(Place, const char *format, ...);
};

}  // namespace cuda_on_cpu
