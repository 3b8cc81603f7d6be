// A CUDA driver for machines without a GPU: the part of libcuda.so that this project calls, on a CPU. Kernels come from
// nvrtc.cpp as shared objects, and fibers.h runs them. Everything is done when it is asked for, on the caller's thread.
//
// Checked as a real driver does: limits of a launch, memory that runs out, calls that a capturing stream forbids. Checked
// beyond that: copies, fills and pointers handed to a kernel lie within live allocations; what is allocated or freed holds 0xFF.
//
// CUDA_ON_CPU_DEVICES     how many devices there are (1; 0 plays a machine without)
// CUDA_ON_CPU_CAPABILITY  compute capability (80, 86, 89, 90, ...; default 80), which also sets the limit of shared memory
// CUDA_ON_CPU_MEMORY      the device's memory in bytes (1 GiB)
// CUDA_ON_CPU_SEED        the order in which threads and blocks run

#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>

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
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_ILLEGAL_STATE = 401,
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
using Work = std::function<CUresult()>;
struct Graph { std::vector<Work> work; };
struct Stream {
    std::unique_ptr<Graph> capture;
    bool spoiled = false;  // a forbidden call came while it captured
};
struct Event { double time = -1; };  // milliseconds; below 0: not recorded
struct LaunchConfig {                // CUlaunchConfig
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    Stream *stream;
    void *attributes;
    unsigned attribute_count;
};

static std::recursive_mutex mutex;
#define LOCK std::lock_guard<std::recursive_mutex> lock(mutex)

static Context context;
static thread_local Context *current;
static std::map<CUdeviceptr, size_t> allocations;  // of the device
static size_t memory_used;
static std::vector<Stream *> capturing;

static size_t setting(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 10) : otherwise;
}
static size_t memory_size() { return setting("CUDA_ON_CPU_MEMORY", 1ull << 30); }
static int capability() { return (int)setting("CUDA_ON_CPU_CAPABILITY", 80); }
static unsigned shared_limit() {  // with opt-in, of one block
    const int c = capability();
    return c == 80 || c == 87 ? 163 * 1024 : c == 86 || c == 89 || c >= 120 ? 99 * 1024 : 227 * 1024;
}

// Bytes from `at` to the end of its allocation; -1 if none holds it. The end itself belongs to it.
static long long room(CUdeviceptr at) {
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return -1;
    auto &[start, size] = *std::prev(after);
    return at <= start + size ? (long long)(start + size - at) : -1;
}
static bool holds(CUdeviceptr at, size_t size) { return room(at) >= (long long)size; }

// What cannot be while a stream captures. It spoils the captures.
static bool forbidden() {
    for (Stream *stream : capturing) stream->spoiled = true;
    return !capturing.empty();
}
#define FORBIDDEN_IN_CAPTURE                                     \
    LOCK;                                                        \
    if (forbidden()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED

// Does the work, or adds it to the graph that the stream captures.
static CUresult submit(Stream *stream, Work work) {
    if (!stream || !stream->capture) return work();
    stream->capture->work.push_back(std::move(work));
    return CUDA_SUCCESS;
}

extern "C" {

CUresult cuInit(unsigned) {
    cuda_on_cpu::device_memory = [](const void *at, size_t size) { return holds((CUdeviceptr)at, size); };
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
        NAME(CUDA_ERROR_NOT_FOUND);
        NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
        NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        NAME(CUDA_ERROR_ILLEGAL_STATE);
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
    FORBIDDEN_IN_CAPTURE;
    return CUDA_SUCCESS;
}

// Memory.

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    LOCK;
    *total = memory_size();
    *free = *total > memory_used ? *total - memory_used : 0;
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc_v2(CUdeviceptr *answer, size_t size) {
    FORBIDDEN_IN_CAPTURE;
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
    memset((void *)at, 0xFF, found->second);  // for whoever still reads it
    memory_used -= found->second;
    allocations.erase(found);
    free((void *)at);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **answer, size_t size, unsigned) {
    FORBIDDEN_IN_CAPTURE;
    return size && !posix_memalign(answer, 256, size) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemAllocHost_v2(void **answer, size_t size) { return cuMemHostAlloc(answer, size, 0); }
CUresult cuMemFreeHost(void *at) {
    FORBIDDEN_IN_CAPTURE;
    return free(at), CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, Stream *stream) {
    LOCK;
    return submit(stream, [=] {
        if (!holds(to, size)) return CUDA_ERROR_INVALID_VALUE;
        return memcpy((void *)to, from, size), CUDA_SUCCESS;
    });
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, Stream *stream) {
    LOCK;
    return submit(stream, [=] {
        if (!holds(from, size)) return CUDA_ERROR_INVALID_VALUE;
        return memcpy(to, (void *)from, size), CUDA_SUCCESS;
    });
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, Stream *stream) {
    LOCK;
    return submit(stream, [=] {
        if (!holds(to, size) || !holds(from, size)) return CUDA_ERROR_INVALID_VALUE;
        return memmove((void *)to, (void *)from, size), CUDA_SUCCESS;
    });
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) {
    FORBIDDEN_IN_CAPTURE;
    return cuMemcpyHtoDAsync_v2(to, from, size, nullptr);
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
    FORBIDDEN_IN_CAPTURE;
    return cuMemcpyDtoHAsync_v2(to, from, size, nullptr);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
    FORBIDDEN_IN_CAPTURE;
    return cuMemcpyDtoDAsync_v2(to, from, size, nullptr);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, Stream *stream) {
    LOCK;
    return submit(stream, [=] {
        if (!holds(to, count)) return CUDA_ERROR_INVALID_VALUE;
        return memset((void *)to, value, count), CUDA_SUCCESS;
    });
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, Stream *stream) {
    LOCK;
    if (to % 4) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, [=] {
        if (!holds(to, 4 * count)) return CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < count; i++) ((unsigned *)to)[i] = value;
        return CUDA_SUCCESS;
    });
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    FORBIDDEN_IN_CAPTURE;
    return cuMemsetD8Async(to, value, count, nullptr);
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    FORBIDDEN_IN_CAPTURE;
    return cuMemsetD32Async(to, value, count, nullptr);
}

// Modules and launches.

CUresult cuModuleLoadData(Module **answer, const void *image) {
    LOCK;
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
    return delete module, CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(Function **answer, Module *module, const char *name) {
    LOCK;
    auto &function = module->functions[name];
    if (!function) {
        auto find = [&](std::string symbol) { return dlsym(module->object, symbol.c_str()); };
        auto list = (const Argument *(*)())find(std::string(name) + "__arguments");
        if (!list) return module->functions.erase(name), CUDA_ERROR_NOT_FOUND;
        function = std::make_unique<Function>();
        function->name = name;
        function->launch = (void (*)(void **))find(std::string(name) + "__launch");
        function->arguments = list();
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
    LOCK;
    if (attribute == 8) {  // dynamic shared memory
        if (value < 0 || (unsigned)value > shared_limit()) return CUDA_ERROR_INVALID_VALUE;
        function->shared_limit = (unsigned)value;
    }
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, int attribute, Function *function) {
    switch (attribute) {
        case 0: *value = 1024; break;  // threads of a block
        case 4: *value = 32; break;    // registers of a thread
        case 6: *value = capability(); break;
        case 8: *value = (int)function->shared_limit; break;
        default: *value = 0;           // static shared memory, constants, stack
    }
    return CUDA_SUCCESS;
}

static CUresult run(Function *function, Dim grid, Dim block, unsigned shared, void **values) {
    for (int i = 0; function->arguments[i].size; i++) {
        if (!function->arguments[i].pointer) continue;
        const CUdeviceptr at = *(CUdeviceptr *)values[i];
        if (at && room(at) < 0) {
            fprintf(stderr, "cuda_on_cpu: argument %d of kernel %s is 0x%llx, which no live allocation holds\n", i,
                    function->name.c_str(), at);
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
    }
    cuda_on_cpu::run(*function, grid, block, shared, values);
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, Stream *stream, void **values, void **extra) {
    LOCK;
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    const Dim grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (!block.x || !block.y || !block.z || block.x > 1024 || block.y > 1024 || block.z > 64 ||
        block.x * block.y * block.z > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (shared > function->shared_limit || extra) return CUDA_ERROR_INVALID_VALUE;
    if (!stream || !stream->capture) return run(function, grid, block, shared, values);
    // A graph keeps the arguments' values.
    std::vector<std::shared_ptr<char>> copies;
    for (int i = 0; function->arguments[i].size; i++) {
        const size_t size = function->arguments[i].size;
        copies.emplace_back((char *)aligned_alloc(128, (size + 127) / 128 * 128), free);
        memcpy(copies.back().get(), values[i], size);
    }
    return submit(stream, [=] {
        std::vector<void *> values;
        for (auto &copy : copies) values.push_back(copy.get());
        return run(function, grid, block, shared, values.data());
    });
}
CUresult cuLaunchKernelEx(const LaunchConfig *config, Function *function, void **values, void **extra) {
    return cuLaunchKernel(function, config->grid_x, config->grid_y, config->grid_z, config->block_x, config->block_y,
                          config->block_z, config->shared_bytes, config->stream, values, extra);
}

// Streams, events and graphs.

CUresult cuStreamCreate(Stream **answer, unsigned) { return *answer = new Stream, CUDA_SUCCESS; }
CUresult cuStreamCreateWithPriority(Stream **answer, unsigned flags, int) { return cuStreamCreate(answer, flags); }
CUresult cuStreamDestroy_v2(Stream *stream) { return delete stream, CUDA_SUCCESS; }
CUresult cuStreamSynchronize(Stream *stream) {
    LOCK;
    if (!stream || !stream->capture) return CUDA_SUCCESS;
    stream->spoiled = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}
CUresult cuStreamQuery(Stream *stream) { return cuStreamSynchronize(stream); }
CUresult cuStreamWaitEvent(Stream *, Event *, unsigned) { return CUDA_SUCCESS; }

CUresult cuStreamBeginCapture_v2(Stream *stream, int) {
    LOCK;
    if (!stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_unique<Graph>();
    stream->spoiled = false;
    capturing.push_back(stream);
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(Stream *stream, Graph **answer) {
    LOCK;
    *answer = nullptr;
    if (!stream || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    for (size_t i = 0; i < capturing.size(); i++)
        if (capturing[i] == stream) capturing.erase(capturing.begin() + (long)i--);
    auto graph = std::move(stream->capture);
    if (stream->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *answer = graph.release();
    return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(Stream *stream, int *status) {
    LOCK;
    return *status = !stream || !stream->capture ? 0 : stream->spoiled ? 2 : 1, CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(Graph **answer, Graph *graph, unsigned long long) {
    return *answer = new Graph(*graph), CUDA_SUCCESS;
}
CUresult cuGraphInstantiate_v2(Graph **answer, Graph *graph, void **, char *, size_t) {
    return cuGraphInstantiateWithFlags(answer, graph, 0);
}
CUresult cuGraphUpload(Graph *, Stream *) { return CUDA_SUCCESS; }
CUresult cuGraphLaunch(Graph *graph, Stream *stream) {
    LOCK;
    if (stream && stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    for (Work &work : graph->work)
        if (CUresult error = work()) return error;
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(Graph *graph) { return delete graph, CUDA_SUCCESS; }
CUresult cuGraphDestroy(Graph *graph) { return delete graph, CUDA_SUCCESS; }

CUresult cuEventCreate(Event **answer, unsigned) { return *answer = new Event, CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(Event *event) { return delete event, CUDA_SUCCESS; }
CUresult cuEventRecord(Event *event, Stream *stream) {
    LOCK;
    if (stream && stream->capture) return CUDA_SUCCESS;
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->time = 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
    return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(Event *) { return CUDA_SUCCESS; }
CUresult cuEventQuery(Event *) { return CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    if (start->time < 0 || end->time < 0) return CUDA_ERROR_INVALID_HANDLE;
    return *milliseconds = (float)(end->time - start->time), CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

}  // extern "C"
