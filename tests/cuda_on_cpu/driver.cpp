// A CUDA driver for machines without a GPU: the part of libcuda.so that this project calls, on a CPU. Kernels come from
// nvrtc.cpp as shared objects, and fibers.h runs them.
//
// Checked as a real driver does: limits of a launch, memory that runs out, calls that a capturing stream forbids.
// Checked beyond that: copies, fills and pointers handed to a kernel lie within live allocations; what is allocated or
// freed holds 0xFF.
//
// A stream's work is done as late as the API allows, when something waits for it: who reads an answer, or reuses pinned
// memory, without waiting gets wrong numbers.
//
// CUDA_ON_CPU_DEVICES     how many devices there are (1; 0 plays a machine without)
// CUDA_ON_CPU_CAPABILITY  compute capability (90; or 80, 86, 89, ...), which also sets the limit of shared memory
// CUDA_ON_CPU_MEMORY      the device's memory in bytes (1 GiB)
// CUDA_ON_CPU_SEED        the order in which threads and blocks run
// CUDA_ON_CPU_CALLS       a file for how often what launches, waits or allocates was called, written when the process ends
// CUDA_LAUNCH_BLOCKING    1: work is done at once, so that a debugger shows who asked for it (as with a real driver)

#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "fibers.h"

using cuda_on_cpu::Argument;
using cuda_on_cpu::Dim;
using cuda_on_cpu::Kernel;

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_ILLEGAL_STATE = 401,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
    CUDA_ERROR_CAPTURED_EVENT = 907,
    CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE = 910,
};

struct Context {};
struct Function;
struct Module {
    void *object = nullptr;
    int file = -1;
    std::map<std::string, std::unique_ptr<Function>> functions;
    ~Module() {
        if (object) dlclose(object);
        if (file >= 0) close(file);
    }
};
struct Function : Kernel {};
using Work = std::function<void()>;
enum Kind { KERNEL, UPLOAD, DOWNLOAD, COPY, FILL, EVENT };
struct Node { Kind kind; Work work; };
struct Graph { std::vector<Node> nodes; };  // one after the other: one stream alone is captured
struct GraphExec : Graph {};
struct UpdateInfo { int result; void *node, *from; };  // CUgraphExecUpdateResultInfo
struct Stream {
    bool blocking = false;   // shares one queue with the null stream
    std::deque<Work> queue;  // to be done
    // While it captures:
    std::unique_ptr<Graph> capture;
    int mode;             // whose risky calls it forbids: everybody's, its thread's, nobody's
    std::thread::id thread;
    bool spoiled;         // such a call came
};
struct Record {
    Stream *stream;  // in whose queue it stands; null once done
    double time;     // milliseconds
};
struct Event {
    std::shared_ptr<Record> last;
    bool captured = false;  // rather than recorded
};
struct LaunchConfig {  // CUlaunchConfig
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    Stream *stream;
    void *attributes;
    unsigned attribute_count;
};

static std::recursive_mutex mutex;
#define LOCK std::lock_guard<std::recursive_mutex> lock(mutex)

static Context context;
static thread_local Context *current;  // every thread has to set it
#define ENTER \
    LOCK;     \
    if (!current) return CUDA_ERROR_INVALID_CONTEXT
static std::map<CUdeviceptr, size_t> allocations;  // of the device
static std::map<CUdeviceptr, size_t> pinned;       // host memory that the device can reach
static size_t memory_used;                         // by allocations
static Stream null_stream;
static std::vector<Stream *> streams = {&null_stream};
static std::set<GraphExec *> executables;

// How often what matters was called.
static struct Calls {
    std::map<std::string, size_t> counts;
    ~Calls() {
        const char *path = getenv("CUDA_ON_CPU_CALLS");
        FILE *file = path && *path ? fopen(path, "w") : nullptr;
        for (auto &[name, count] : counts)
            if (file) fprintf(file, "%s %zu\n", name.c_str(), count);
        if (file) fclose(file);
    }
} calls;
static void count(const char *name) { calls.counts[name]++; }

static size_t setting(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 10) : otherwise;
}
static size_t memory_size() { return setting("CUDA_ON_CPU_MEMORY", 1ull << 30); }
static int capability() { return (int)setting("CUDA_ON_CPU_CAPABILITY", 90); }
static unsigned shared_limit() {  // with opt-in, of one block
    const int c = capability();
    return c == 80 || c == 87 ? 163 * 1024 : c == 86 || c == 89 || c >= 120 ? 99 * 1024 : 227 * 1024;
}

// Does an allocation hold `size` bytes from `at` on? Of 0 bytes it holds its end too.
static bool holds(const std::map<CUdeviceptr, size_t> &memory, CUdeviceptr at, size_t size) {
    auto after = memory.upper_bound(at);
    if (after == memory.begin()) return false;
    auto &[start, length] = *std::prev(after);
    return at - start <= length && length - (at - start) >= size;
}
static bool on_device(CUdeviceptr at, size_t size) { return holds(allocations, at, size); }
static bool reachable(CUdeviceptr at, size_t size) { return on_device(at, size) || holds(pinned, at, size); }
static bool is_pinned(const void *at, size_t size) { return holds(pinned, (CUdeviceptr)at, size); }

static Stream &queue_of(Stream *stream) { return stream && !stream->blocking ? *stream : null_stream; }

static void step(Stream &stream) {
    Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    work();
}
static void finish(Stream &stream) {
    while (!stream.queue.empty()) step(stream);
}
static void finish_all() {
    for (Stream *stream : streams) finish(*stream);
}
static void finish(Record *record) {
    while (record && record->stream) step(*record->stream);
}

// Queues the work, or adds it to the graph that the stream captures.
static CUresult submit(Stream *stream, Kind kind, Work work) {
    if (stream && stream->capture) return stream->capture->nodes.push_back({kind, std::move(work)}), CUDA_SUCCESS;
    if (!stream)
        for (Stream *other : streams)  // the null stream waits for those that block it
            if (other->capture && other->blocking) return other->spoiled = true, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    queue_of(stream).queue.push_back(std::move(work));
    if (setting("CUDA_LAUNCH_BLOCKING", 0)) finish(queue_of(stream));
    return CUDA_SUCCESS;
}

// Of work about to be done. Memory is not freed before the work that was queued for it, but a graph may outlive it.
static void still_there(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "cuda_on_cpu: a graph's %s uses memory that was freed\n", what);
    abort();
}

// The first argument of a launch that points to no allocation; -1 if there is none.
static int stray_pointer(const Function &function, void *const *values) {
    for (int i = 0; function.entry.arguments[i].size; i++)
        if (function.entry.arguments[i].pointer)
            if (CUdeviceptr at = *(CUdeviceptr *)values[i]; at && !reachable(at, 0)) return i;
    return -1;
}

// What cannot be while streams capture spoils their captures.
static bool forbidden() {
    bool any = false;
    for (Stream *stream : streams) {
        const bool ours = stream->mode == 0 || (stream->mode == 1 && stream->thread == std::this_thread::get_id());
        if (stream->capture && ours) any = stream->spoiled = true;
    }
    return any;
}
#define FORBIDDEN_IN_CAPTURE                                     \
    ENTER;                                                       \
    if (forbidden()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED

extern "C" {

CUresult cuInit(unsigned) {
    cuda_on_cpu::device_memory = [](const void *at, size_t size) { return reachable((CUdeviceptr)at, size); };
    return setting("CUDA_ON_CPU_DEVICES", 1) ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}
CUresult cuDriverGetVersion(int *version) { return *version = 12080, CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **name) {
    switch (error) {
#define NAME(error) case error: *name = #error; return CUDA_SUCCESS
        NAME(CUDA_SUCCESS);
        NAME(CUDA_ERROR_INVALID_VALUE);
        NAME(CUDA_ERROR_OUT_OF_MEMORY);
        NAME(CUDA_ERROR_NO_DEVICE);
        NAME(CUDA_ERROR_INVALID_DEVICE);
        NAME(CUDA_ERROR_INVALID_IMAGE);
        NAME(CUDA_ERROR_INVALID_CONTEXT);
        NAME(CUDA_ERROR_INVALID_HANDLE);
        NAME(CUDA_ERROR_ILLEGAL_STATE);
        NAME(CUDA_ERROR_NOT_FOUND);
        NAME(CUDA_ERROR_NOT_READY);
        NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
        NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        NAME(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        NAME(CUDA_ERROR_CAPTURED_EVENT);
        NAME(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
#undef NAME
    }
    *name = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }

CUresult cuDeviceGetCount(int *count) { return *count = (int)setting("CUDA_ON_CPU_DEVICES", 1), CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < (int)setting("CUDA_ON_CPU_DEVICES", 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int size, CUdevice) {
    return snprintf(name, (size_t)size, "CPU in place of a GPU"), CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid_v2(char *uuid, CUdevice device) { return memset(uuid, device, 16), CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) { return *bytes = memory_size(), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice) {
    switch (attribute) {
        case 1: case 2: case 3: *value = 1024; break;        // threads of a block, in x, in y
        case 4: *value = 64; break;                          // in z
        case 5: *value = 0x7FFFFFFF; break;                  // blocks in x
        case 6: case 7: *value = 65535; break;               // in y, in z
        case 8: *value = 48 * 1024; break;                   // shared memory of a block
        case 10: *value = 32; break;                         // warp
        case 12: case 82: *value = 65536; break;             // registers of a block, of a multiprocessor
        case 13: case 36: *value = 1000000; break;           // clocks in kHz, of the device and its memory
        case 16: *value = 4; break;                          // multiprocessors
        case 37: *value = 64; break;                         // bits to memory
        case 38: *value = 1 << 20; break;                    // bytes of L2
        case 39: *value = 2048; break;                       // threads of a multiprocessor
        case 41: *value = 1; break;                          // one address space with the host
        case 75: *value = capability() / 10; break;
        case 76: *value = capability() % 10; break;
        case 81: *value = (int)shared_limit() + 1024; break; // shared memory of a multiprocessor
        case 97: *value = (int)shared_limit(); break;        // shared memory of a block, with opt-in
        default: *value = 0;                                 // 115, memory pools, among them
    }
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(Context **answer, CUdevice) { return *answer = &context, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(Context *to) { return current = to, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(Context **answer) { return *answer = current, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }
CUresult cuCtxSynchronize() {
    ENTER;
    for (Stream *stream : streams)
        if (stream->capture) return stream->spoiled = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return finish_all(), CUDA_SUCCESS;
}

// Memory.

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER;
    *total = memory_size();
    *free = *total > memory_used ? *total - memory_used : 0;
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc_v2(CUdeviceptr *answer, size_t size) {
    FORBIDDEN_IN_CAPTURE;
    count("cuMemAlloc");
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    void *at = nullptr;
    // Of exactly the size that was asked for, so that AddressSanitizer sees a step past the end.
    if (memory_used + size > memory_size() || posix_memalign(&at, 256, size)) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(at, 0xFF, size);
    *answer = (CUdeviceptr)at;
    allocations[*answer] = size;
    memory_used += size;
    return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr at) {
    FORBIDDEN_IN_CAPTURE;
    if (!at) return CUDA_SUCCESS;
    auto found = allocations.find(at);
    if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
    finish_all();
    memset((void *)at, 0xFF, found->second);  // for whoever still reads it
    memory_used -= found->second;
    allocations.erase(found);
    free((void *)at);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **answer, size_t size, unsigned) {
    FORBIDDEN_IN_CAPTURE;
    count("cuMemHostAlloc");
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    if (posix_memalign(answer, 256, size)) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*answer, 0xFF, size);
    return pinned[(CUdeviceptr)*answer] = size, CUDA_SUCCESS;
}
CUresult cuMemAllocHost_v2(void **answer, size_t size) { return cuMemHostAlloc(answer, size, 0); }
CUresult cuMemFreeHost(void *at) {
    FORBIDDEN_IN_CAPTURE;
    finish_all();
    auto found = pinned.find((CUdeviceptr)at);
    if (found == pinned.end()) return CUDA_ERROR_INVALID_VALUE;
    memset(at, 0xFF, found->second);  // for whoever still reads it
    pinned.erase(found);
    return free(at), CUDA_SUCCESS;
}

// Between device and pageable memory of the host a copy does not return before it is done with the host's side; and so it
// cannot be captured.
static bool pageable_in_capture(const void *host, size_t size, Stream *stream) {
    if (is_pinned(host, size) || !stream || !stream->capture) return false;
    fprintf(stderr, "cuda_on_cpu: a copy of %zu bytes from or to pageable memory is captured\n", size);
    return stream->spoiled = true;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, Stream *stream) {
    ENTER;
    if (!on_device(to, size)) return CUDA_ERROR_INVALID_VALUE;
    if (pageable_in_capture(from, size, stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (is_pinned(from, size))
        return submit(stream, UPLOAD, [=] {
            still_there(on_device(to, size) && is_pinned(from, size), "copy");
            memcpy((void *)to, from, size);
        });
    count("pageable copies");
    std::string staged((const char *)from, size);
    return submit(stream, UPLOAD, [to, staged = std::move(staged)] { memcpy((void *)to, staged.data(), staged.size()); });
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, Stream *stream) {
    ENTER;
    if (!on_device(from, size)) return CUDA_ERROR_INVALID_VALUE;
    if (pageable_in_capture(to, size, stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    const bool waits = !is_pinned(to, size);
    const CUresult result = submit(stream, DOWNLOAD, [=] {
        still_there(on_device(from, size) && (waits || is_pinned(to, size)), "copy");
        memcpy(to, (void *)from, size);
    });
    if (waits) count("pageable copies"), finish(queue_of(stream));
    return result;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, Stream *stream) {
    ENTER;
    if (!on_device(to, size) || !on_device(from, size)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, COPY, [=] {
        still_there(on_device(to, size) && on_device(from, size), "copy");
        memmove((void *)to, (void *)from, size);
    });
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, Stream *stream) {
    ENTER;
    if (!on_device(to, count)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, FILL, [=] {
        still_there(on_device(to, count), "fill");
        memset((void *)to, value, count);
    });
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, Stream *stream) {
    ENTER;
    if (to % 4 || !on_device(to, 4 * count)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, FILL, [=] {
        still_there(on_device(to, 4 * count), "fill");
        std::fill_n((unsigned *)to, count, value);
    });
}
// These wait for the null stream; no copy or fill of them is left to be done.
#define AND_WAIT(call)                        \
    FORBIDDEN_IN_CAPTURE;                     \
    const CUresult result = call;             \
    return finish(null_stream), result
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) {
    AND_WAIT(cuMemcpyHtoDAsync_v2(to, from, size, nullptr));
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
    AND_WAIT(cuMemcpyDtoHAsync_v2(to, from, size, nullptr));
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
    AND_WAIT(cuMemcpyDtoDAsync_v2(to, from, size, nullptr));
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    AND_WAIT(cuMemsetD8Async(to, value, count, nullptr));
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    AND_WAIT(cuMemsetD32Async(to, value, count, nullptr));
}

// Modules and launches.

CUresult cuModuleLoadData(Module **answer, const void *image) {
    FORBIDDEN_IN_CAPTURE;
    // An ELF file says where its table of sections stands; the linker puts that last.
    const unsigned char *bytes = (const unsigned char *)image;
    if (memcmp(bytes, "\177ELF\2\1", 6)) return CUDA_ERROR_INVALID_IMAGE;
    unsigned long long table;
    unsigned short entry, entries;
    memcpy(&table, bytes + 40, 8), memcpy(&entry, bytes + 58, 2), memcpy(&entries, bytes + 60, 2);
    auto module = std::make_unique<Module>();
    module->file = memfd_create("kernel", MFD_CLOEXEC);
    for (size_t at = 0, size = table + entry * entries; at < size;) {
        const ssize_t wrote = write(module->file, bytes + at, size - at);
        if (wrote < 0) return CUDA_ERROR_OUT_OF_MEMORY;
        at += (size_t)wrote;
    }
    // The file stays open: AddressSanitizer reads from it which line an address belongs to.
    module->object = dlopen(("/proc/self/fd/" + std::to_string(module->file)).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!module->object) {
        fprintf(stderr, "cuda_on_cpu: %s\n", dlerror());
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *answer = module.release();
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(Module *module) {
    FORBIDDEN_IN_CAPTURE;
    finish_all();
    return delete module, CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(Function **answer, Module *module, const char *name) {
    ENTER;
    auto &function = module->functions[name];
    if (!function) {
        auto find = [&](std::string symbol) { return dlsym(module->object, symbol.c_str()); };
        auto entry = (const cuda_on_cpu::Entry *)find(std::string(name) + "__entry");
        if (!entry) return module->functions.erase(name), CUDA_ERROR_NOT_FOUND;
        function = std::make_unique<Function>();
        function->name = name, function->entry = *entry;
        function->thread_idx = (Dim *)find("threadIdx"), function->block_idx = (Dim *)find("blockIdx");
        function->block_dim = (Dim *)find("blockDim"), function->grid_dim = (Dim *)find("gridDim");
        function->shared = (char *)find("cuda_on_cpu_shared");
        function->runtime = (cuda_on_cpu::Runtime **)find("cuda_on_cpu_runtime");
        function->shared_limit = 48 * 1024;
    }
    *answer = function.get();
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(Function *function, int attribute, int value) {
    ENTER;
    if (attribute == 8) {  // dynamic shared memory
        if (value < 0 || (unsigned)value > shared_limit()) return CUDA_ERROR_INVALID_VALUE;
        function->shared_limit = (unsigned)value;
    }
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, int attribute, Function *function) {
    switch (attribute) {
        case 0: *value = (int)function->entry.most_threads; break;
        case 4: *value = 32; break;  // registers of a thread
        case 6: *value = capability(); break;
        case 8: *value = (int)function->shared_limit; break;
        default: *value = 0;  // static shared memory, constants, stack
    }
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, Stream *stream, void **values,
                        void **extra) {
    ENTER;
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    const Dim grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
    if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z) return CUDA_ERROR_INVALID_VALUE;
    if (grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return CUDA_ERROR_INVALID_VALUE;
    if (block.x * block.y * block.z > function->entry.most_threads) return CUDA_ERROR_INVALID_VALUE;
    if (shared > function->shared_limit || extra) return CUDA_ERROR_INVALID_VALUE;
    // The values are the caller's; each is kept at the alignment that any type may ask for.
    enum { ALIGNMENT = 128 };
    auto rounded = [](size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; };
    size_t size = ALIGNMENT;
    for (const Argument *a = function->entry.arguments; a->size; a++) size += rounded(a->size);
    std::shared_ptr<char> copies((char *)aligned_alloc(ALIGNMENT, size), free);
    std::vector<void *> kept;
    char *next = copies.get();
    for (const Argument *a = function->entry.arguments; a->size; a++, values++) {
        kept.push_back(memcpy(next, *values, a->size));
        next += rounded(a->size);
    }
    if (const int stray = stray_pointer(*function, kept.data()); stray >= 0) {
        fprintf(stderr, "cuda_on_cpu: argument %d of kernel %s is 0x%llx, which no live allocation holds\n", stray,
                function->name.c_str(), *(CUdeviceptr *)kept[(size_t)stray]);
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    count(stream && stream->capture ? "kernels in graphs" : "cuLaunchKernel");
    return submit(stream, KERNEL, [=]() mutable {
        (void)copies;  // where `kept` points
        still_there(stray_pointer(*function, kept.data()) < 0, function->name.c_str());
        cuda_on_cpu::run(*function, grid, block, shared, kept.data());
    });
}
CUresult cuLaunchKernelEx(const LaunchConfig *config, Function *function, void **values, void **extra) {
    return cuLaunchKernel(function, config->grid_x, config->grid_y, config->grid_z, config->block_x, config->block_y,
                          config->block_z, config->shared_bytes, config->stream, values, extra);
}

// Matrices of bf16 in boxes of 64 columns, the only ones that are asked for; refused as a real driver does.
CUresult cuTensorMapEncodeTiled(cuda_on_cpu::TensorMap *map, int type, unsigned rank, CUdeviceptr at,
                                const unsigned long long *sizes, const unsigned long long *strides, const unsigned *box,
                                const unsigned *element_strides, int interleave, int swizzle, int, int fill) {
    const bool known = type == 9 && rank == 2 && !interleave && swizzle == 3 && !fill && box[0] == 64;
    const bool aligned = at % 16 == 0 && strides[0] % 16 == 0 && (size_t)map % 64 == 0;
    const bool fits = sizes[0] - 1 < 1ull << 32 && sizes[1] - 1 < 1ull << 32 && strides[0] < 1ull << 40;
    if (!known || !aligned || !fits || box[1] - 1 >= 256 || element_strides[0] != 1 || element_strides[1] != 1)
        return CUDA_ERROR_INVALID_VALUE;
    *map = {cuda_on_cpu::TensorMap::MAGIC, at, sizes[1], sizes[0], strides[0], box[1], {}};
    return CUDA_SUCCESS;
}

// Streams, events and graphs.

CUresult cuStreamCreate(Stream **answer, unsigned flags) {
    ENTER;
    *answer = new Stream;
    (*answer)->blocking = !(flags & 1);
    return streams.push_back(*answer), CUDA_SUCCESS;
}
CUresult cuStreamCreateWithPriority(Stream **answer, unsigned flags, int) { return cuStreamCreate(answer, flags); }
CUresult cuStreamDestroy_v2(Stream *stream) {
    LOCK;
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    finish(queue_of(stream));
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    return delete stream, CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(Stream *stream) {
    ENTER;
    if (stream && stream->capture) return stream->spoiled = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    count("cuStreamSynchronize");
    return finish(queue_of(stream)), CUDA_SUCCESS;
}
CUresult cuStreamQuery(Stream *stream) {  // whoever asks again and again gets on
    ENTER;
    if (stream && stream->capture) return stream->spoiled = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (queue_of(stream).queue.empty()) return CUDA_SUCCESS;
    return step(queue_of(stream)), CUDA_ERROR_NOT_READY;
}

CUresult cuStreamBeginCapture_v2(Stream *stream, int mode) {
    ENTER;
    if (!stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_unique<Graph>();
    stream->mode = mode, stream->thread = std::this_thread::get_id(), stream->spoiled = false;
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(Stream *stream, Graph **answer) {
    ENTER;
    *answer = nullptr;
    if (!stream || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    // Whoever began it has to end it, but in the mode that trusts its user.
    if (stream->mode != 2 && stream->thread != std::this_thread::get_id())
        return stream->spoiled = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    auto graph = std::move(stream->capture);
    if (stream->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    return *answer = graph.release(), CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(Stream *stream, int *status) {
    ENTER;
    return *status = !stream || !stream->capture ? 0 : stream->spoiled ? 2 : 1, CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(GraphExec **answer, Graph *graph, unsigned long long) {
    ENTER;
    count("cuGraphInstantiate");
    *answer = new GraphExec{*graph};
    return executables.insert(*answer), CUDA_SUCCESS;
}
CUresult cuGraphInstantiate_v2(GraphExec **answer, Graph *graph, void **, char *, size_t) {
    return cuGraphInstantiateWithFlags(answer, graph, 0);
}
// An executable takes over arguments, grids, sizes and addresses, and kernels, from a graph that has the same kinds of nodes.
// What was launched before is not touched.
CUresult cuGraphExecUpdate_v2(GraphExec *executable, Graph *graph, UpdateInfo *info) {
    ENTER;
    if (!executables.count(executable) || !graph) return CUDA_ERROR_INVALID_VALUE;
    count("cuGraphExecUpdate");
    const auto &had = executable->nodes, &has = graph->nodes;
    const auto same = [](const Node &a, const Node &b) { return a.kind == b.kind; };
    *info = {};
    if (had.size() != has.size()) info->result = 2;  // another topology
    else if (!std::equal(has.begin(), has.end(), had.begin(), same)) info->result = 3;  // another type of node
    if (info->result) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    return executable->nodes = has, CUDA_SUCCESS;
}
CUresult cuGraphUpload(GraphExec *, Stream *) { return CUDA_SUCCESS; }
CUresult cuGraphLaunch(GraphExec *graph, Stream *stream) {
    ENTER;
    if (!executables.count(graph)) return CUDA_ERROR_INVALID_VALUE;
    if (stream && stream->capture) return stream->spoiled = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    count("cuGraphLaunch");
    for (const Node &node : graph->nodes)
        if (const CUresult result = submit(stream, node.kind, node.work)) return result;
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(GraphExec *graph) {
    LOCK;
    return executables.erase(graph) ? (delete graph, CUDA_SUCCESS) : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGraphDestroy(Graph *graph) { return delete graph, CUDA_SUCCESS; }

CUresult cuEventCreate(Event **answer, unsigned) { return *answer = new Event, CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(Event *event) { return delete event, CUDA_SUCCESS; }
CUresult cuEventRecord(Event *event, Stream *stream) {
    ENTER;
    event->captured = stream && stream->capture;
    if (event->captured) return CUDA_SUCCESS;  // one stream alone is captured, and needs no events
    auto record = std::make_shared<Record>(Record{&queue_of(stream), 0});
    event->last = record;
    return submit(stream, EVENT, [record] {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        record->time = 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
        record->stream = nullptr;
    });
}
CUresult cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    ENTER;
    auto record = event->last;
    if ((stream && stream->capture) || !record || record->stream == &queue_of(stream)) return CUDA_SUCCESS;
    return submit(stream, EVENT, [record] { finish(record.get()); });
}
CUresult cuEventSynchronize(Event *event) {
    ENTER;
    if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
    count("cuEventSynchronize");
    return finish(event->last.get()), CUDA_SUCCESS;
}
CUresult cuEventQuery(Event *event) {
    ENTER;
    if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
    if (!event->last || !event->last->stream) return CUDA_SUCCESS;
    return step(*event->last->stream), CUDA_ERROR_NOT_READY;
}
CUresult cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    ENTER;
    if (!start->last || !end->last) return CUDA_ERROR_INVALID_HANDLE;
    if (start->last->stream || end->last->stream) return CUDA_ERROR_NOT_READY;
    return *milliseconds = (float)(end->last->time - start->last->time), CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

}  // extern "C"
