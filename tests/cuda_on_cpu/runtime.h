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

struct Runtime {
    unsigned thread;        // number of the running thread within its block
    unsigned shared_bytes;  // of the running launch
    // Waits for all threads of the block; returns how many brought a predicate other than 0.
    unsigned (*barrier)(const char *name, bool predicate, Place);
    // Waits for the lanes of mask and performs the operation once, on what they brought. `whole` demands all 32 lanes.
    void (*together)(const char *name, Operation, void *brought, unsigned mask, bool whole, Place);
    // cp.async: `to` holds 0xFF bytes until a wait delivers.
    void (*copy_async)(void *to, const void *from, unsigned size, unsigned bytes, Place);
    void (*copy_async_commit)();
    void (*copy_async_wait)(unsigned pending);
    // Reports what the running thread did wrong, and aborts.
    void (*fail)(Place, const char *format, ...);
};

}  // namespace cuda_on_cpu
