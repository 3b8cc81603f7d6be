// Tests the emulator: that kernels compute what they say, and that mistakes are found. In this folder:
//     d=$(mktemp -d)
//     build="g++ -O2 -shared -fPIC -std=c++17"
//     $build -Wl,-soname,libcuda.so -o $d/libcuda.so driver.cpp -ldl -pthread
//     $build -Wl,-soname,libnvrtc.so -DSOURCE_DIR="\"$PWD\"" -o $d/libnvrtc.so nvrtc.cpp -ldl -pthread
//     g++ -O1 -std=c++17 -Wno-psabi -o $d/self_test self_test.cpp -ldl -pthread
//     $d/self_test $d ../../src/kernels/cuda/primitives.cuh self_test.cu
// Parts that need AddressSanitizer run in a process of their own, which has LD_PRELOAD set.

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

typedef unsigned long long u64;
typedef unsigned u32;
typedef unsigned short u16;

static void *cuda, *nvrtc;
static std::string program;

// A function of a library, its arguments as given: int and pointers as they are.
template <class... A> static int call(void *library, const char *name, A... a) {
    auto f = (int (*)(A...))dlsym(library, name);
    if (!f) {
        fprintf(stderr, "no %s\n", name);
        exit(1);
    }
    return f(a...);
}
#define CU(name, ...) call(cuda, #name, ##__VA_ARGS__)
#define NVRTC(name, ...) call(nvrtc, #name, ##__VA_ARGS__)

static int failures;
#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) failures++, fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
    } while (0)
#define OK(call) CHECK((call) == 0)

struct Compiled { int result; std::string log, object; };
static Compiled compile(const std::string &text, std::vector<const char *> options) {
    void *handle;
    size_t size;
    Compiled c;
    OK(NVRTC(nvrtcCreateProgram, &handle, text.c_str(), "self_test.cu", 0, nullptr, nullptr));
    c.result = NVRTC(nvrtcCompileProgram, handle, (int)options.size(), options.data());
    NVRTC(nvrtcGetProgramLogSize, handle, &size);
    c.log.resize(size);
    NVRTC(nvrtcGetProgramLog, handle, &c.log[0]);
    NVRTC(nvrtcGetCUBINSize, handle, &size);
    c.object.resize(size);
    NVRTC(nvrtcGetCUBIN, handle, &c.object[0]);
    NVRTC(nvrtcDestroyProgram, &handle);
    return c;
}
static void *load(std::vector<const char *> options) {
    options.push_back("--gpu-architecture=sm_80");
    options.push_back("-std=c++17");
    Compiled c = compile(program, options);
    if (c.result) {
        fprintf(stderr, "%s\n", c.log.c_str());
        exit(1);
    }
    void *module;
    OK(CU(cuModuleLoadData, &module, c.object.data()));
    return module;
}
static void *function(void *module, const char *name) {
    void *f = nullptr;
    OK(CU(cuModuleGetFunction, &f, module, name));
    return f;
}

struct Size { u32 x, y = 1, z = 1; };
template <class... A> static int launch(void *f, Size grid, Size block, u32 shared, void *stream, A... a) {
    void *arguments[] = {&a..., nullptr};
    return CU(cuLaunchKernel, f, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, stream, (void **)arguments,
              (void **)nullptr);
}

// Numbers on the device.
template <class T> struct Array {
    u64 at = 0;
    size_t count;
    explicit Array(size_t count) : count(count) { OK(CU(cuMemAlloc_v2, &at, count * sizeof(T))); }
    explicit Array(const std::vector<T> &values) : Array(values.size()) {
        OK(CU(cuMemcpyHtoDAsync_v2, at, (const void *)values.data(), count * sizeof(T), nullptr));
    }
    ~Array() { CU(cuMemFree_v2, at); }
    std::vector<T> values() const {
        std::vector<T> v(count);
        OK(CU(cuMemcpyDtoHAsync_v2, (void *)v.data(), at, count * sizeof(T), nullptr));
        return v;
    }
};

static u32 state = 1;
static float uniform() { return (float)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1; }  // -1 to 1
static std::vector<float> numbers(size_t count) {
    std::vector<float> v(count);
    for (float &x : v) x = uniform();
    return v;
}
static u16 to_bf16(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return (u16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
static float from_bf16(u16 x) {
    u32 bits = (u32)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

// What a forked child says until it dies of `what`; an empty text if it lives.
template <class F> static std::string death(F what) {
    int ends[2];
    if (pipe(ends)) abort();
    const pid_t child = fork();
    if (!child) {
        dup2(ends[1], 2);
        close(ends[0]);
        what();
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, (size_t)n);
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
    return said + " ";
}
static bool says(const std::string &text, const char *what) {
    if (text.find(what) != std::string::npos) return true;
    fprintf(stderr, "expected \"%s\" in: %s\n", what, text.c_str());
    return false;
}

static void values(void *module) {
    const int n = 1000;
    const std::vector<float> x = numbers(n), y = numbers(n);
    Array<float> a(x), b(y), sum(n);
    OK(launch(function(module, "add"), {4}, {256}, 0, nullptr, a.at, b.at, sum.at, n, 2.0f));
    const std::vector<float> got = sum.values();
    for (int i = 0; i < n; i++) CHECK(got[i] == x[i] + 2.0f * y[i]);

    struct Pair { u64 from, to; };
    Array<float> copied(n);
    OK(launch(function(module, "copy_pair"), {3}, {96}, 0, nullptr, Pair{a.at, copied.at}, (u64)n));
    CHECK(copied.values() == x);

    Array<u32> seen(std::vector<u32>(2 * 3 * 5 * 4 * 3 * 2, 0));
    OK(launch(function(module, "where"), {2, 3, 5}, {4, 3, 2}, 0, nullptr, seen.at));
    const std::vector<u32> marks = seen.values();
    for (u32 i = 0; i < marks.size(); i++) CHECK(marks[i] == 1 + i / 24);

    Array<float> parts(7), last(1);
    Array<u32> arrived(std::vector<u32>{0});
    for (int again = 0; again < 2; again++) {
        OK(launch(function(module, "last_block"), {7}, {64}, 0, nullptr, parts.at, arrived.at, last.at));
        CHECK(last.values()[0] == 21);
    }

    Array<double> powers(std::vector<double>{1, 2, 3});
    OK(launch(function(module, "power_3"), {1}, {3}, 0, nullptr, powers.at));
    CHECK(powers.values() == (std::vector<double>{1, 8, 27}));
}

static float sum_error(void *module) {
    const int blocks = 5, threads = 256;
    const std::vector<float> x = numbers(blocks * threads);
    Array<float> a(x), sums(blocks);
    OK(launch(function(module, "block_sum"), {blocks}, {threads}, threads * 4, nullptr, a.at, sums.at));
    const std::vector<float> got = sums.values();
    float error = 0;
    for (int block = 0; block < blocks; block++) {
        double sum = 0;
        for (int i = 0; i < threads; i++) sum += x[block * threads + i];
        const float e = fabsf((float)sum - got[block]);
        if (!(e <= error)) error = e;  // a NaN counts
    }
    return error;
}

static void warps(void *module) {
    const std::vector<float> x = numbers(64);
    Array<float> a(x), sums(64);
    Array<u32> votes(32 * 4);
    OK(launch(function(module, "warp_sum"), {2}, {32}, 0, nullptr, a.at, sums.at, votes.at));
    const std::vector<float> got = sums.values();
    for (int i = 0; i < 64; i++) {
        double sum = 0;
        for (int j = 0; j < 32; j++) sum += x[i / 32 * 32 + j];
        CHECK(fabs(got[i] - sum) < 1e-5);  // 32 numbers below 1: 31 roundings of at most 2^-20
    }
    const std::vector<u32> v = votes.values();
    for (int i = 0; i < 32; i++) {
        CHECK(v[4 * i] == ~0u);
        CHECK(v[4 * i + 1] == (i % 2 ? 0xAAAA0000u & ~0xFFFFu : 0x55540000u));
        CHECK(v[4 * i + 2] == 16 * 4 + 2 + 0);
        CHECK(v[4 * i + 3] == 2);
    }
}

static float bf16_error(void *module) {
    std::vector<u16> a(16 * 16), b(16 * 8);
    for (u16 &x : a) x = to_bf16(uniform());
    for (u16 &x : b) x = to_bf16(uniform());
    Array<u16> da(a), db(b);
    Array<float> d(16 * 8);
    OK(launch(function(module, "product_bf16"), {1}, {32}, 768, nullptr, da.at, db.at, d.at));
    const std::vector<float> got = d.values();
    float error = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            double sum = 0;
            for (int k = 0; k < 16; k++) sum += (double)from_bf16(a[i * 16 + k]) * from_bf16(b[k * 8 + j]);
            const float e = fabsf((float)sum - got[i * 8 + j]);
            if (!(e <= error)) error = e;
        }
    return error;
}

// With 11 bits, the nearest; of two equally near the one further from zero.
static double nearest_tf32(double x) {
    int exponent;
    const double digits = frexp(x, &exponent);
    return ldexp(round(ldexp(digits, 11)), exponent - 11);
}
static double cut_tf32(double x) {
    int exponent;
    const double digits = frexp(x, &exponent);
    return ldexp(trunc(ldexp(digits, 11)), exponent - 11);
}

static void tf32(void *module) {
    const std::vector<float> a = numbers(16 * 8), b = numbers(8 * 8), c = numbers(16 * 8);
    for (bool rounded : {true, false}) {
        auto operand = rounded ? nearest_tf32 : cut_tf32;
        Array<float> da(a), db(b), d(c);
        OK(launch(function(module, "product_tf32"), {1}, {32}, 0, nullptr, da.at, db.at, d.at, rounded));
        const std::vector<float> got = d.values();
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) {
                double sum = c[i * 8 + j];
                for (int k = 0; k < 8; k++) sum += operand(a[i * 8 + k]) * operand(b[k * 8 + j]);
                CHECK(fabs(sum - got[i * 8 + j]) < 2e-6);  // 8 products below 1 summed in f32
            }
    }
}

static void rounding(void *module) {
    // Halfway between two of the format, either side of it, and what is no number.
    const float e = ldexpf(1, -11), f = ldexpf(1, -8);
    const float less = ldexpf(1, -20);
    Array<float> x(std::vector<float>{1 + e, -1 - e, 1 + e - less, 1 + f, 1 + 3 * f, 1 + 3 * f - less,
                                      -HUGE_VALF, nanf("")});
    Array<u32> tf32(8), bf16(8);
    Array<float> exp2(8);
    OK(launch(function(module, "rounding"), {1}, {8}, 0, nullptr, x.at, tf32.at, bf16.at, exp2.at));
    CHECK(tf32.values() == (std::vector<u32>{0x3F802000, 0xBF802000, 0x3F800000, 0x3F808000, 0x3F818000, 0x3F818000,
                                             0xFF800000, 0x7FFFFFFF}));
    CHECK(bf16.values() == (std::vector<u32>{0xBF803F80, 0x3F80BF80, 0xBF803F80, 0xBF803F80, 0xBF823F82, 0xBF813F81,
                                             0x7F80FF80, 0x7FFF7FFF}));
    CHECK(fabsf(exp2.values()[0] - exp2f(1 + e)) < 1e-6f && exp2.values()[6] == 0);
}

static void orders(void *module) {
    Array<u32> next(std::vector<u32>{0}), place(8 * 32);
    OK(launch(function(module, "order"), {8}, {32}, 0, nullptr, next.at, place.at));
    const std::vector<u32> got = place.values();
    std::vector<bool> seen(8 * 32);
    int neighbors = 0, blocks_in_order = 0;
    for (u32 i = 0; i < got.size(); i++) {
        CHECK(got[i] < seen.size() && !seen[got[i]]);
        seen[got[i]] = true;
        if (i % 32) neighbors += got[i] == got[i - 1] + 1 || got[i] == got[i - 1] - 1;
        else if (i) blocks_in_order += got[i] / 32 == got[i - 32] / 32 + 1;
    }
    CHECK(neighbors < 8 * 31 / 4);  // by chance one in 16
    CHECK(blocks_in_order < 7);

    for (int again = 0; again < 8; again++) {  // sometimes an ending thread is the last that others wait for
        Array<u32> early(96);
        OK(launch(function(module, "early"), {1}, {96}, 96 * 4, nullptr, early.at));
        const std::vector<u32> x = early.values();
        for (u32 i = 0; i < 96; i++) CHECK(x[i] == (i % 3 < 2 ? ~0u : i % 32 < 26 ? i + 6 : i));
    }
}

static void copies(void *module) {
    const std::vector<float> x = numbers(64);
    Array<float> from(x), to(3 * 64);
    OK(launch(function(module, "copy_parts"), {1}, {64}, 512, nullptr, from.at, to.at));
    const std::vector<float> got = to.values();
    for (int i = 0; i < 64; i++) {
        CHECK(got[3 * i] == (i % 2 ? x[i] : 0));
        CHECK(isnan(got[3 * i + 1]));
        CHECK(got[3 * i + 2] == x[i]);
    }
}

static void boxes(void *module) {
    struct alignas(64) Map { u64 opaque[16]; };
    std::vector<u16> a(60 * 120), b(100 * 120);  // less than the boxes
    for (u16 &x : a) x = to_bf16(uniform());
    for (u16 &x : b) x = to_bf16(uniform());
    void *f = function(module, "product_of_boxes");
    OK(CU(cuFuncSetAttribute, f, 8, 25600));
    Array<u16> da(a), db(b);
    auto map = [](u64 at, u64 rows, u32 box_rows) {
        Map map;
        const u64 sizes[] = {120, rows}, pitch = 240;
        const u32 box[] = {64, box_rows}, steps[] = {1, 1};
        OK(CU(cuTensorMapEncodeTiled, &map, 9, 2u, at, sizes, &pitch, box, steps, 0, 3, 2, 0));
        return map;
    };
    auto run = [&](int mistake) {
        Array<float> d(64 * 128);
        launch(f, {1}, {160}, 24592, nullptr, map(da.at, 60, 64), map(db.at, 100, 128), d.at, mistake);
        return d.values();
    };
    const std::vector<float> got = run(0);
    float error = 0;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 128; j++) {
            double sum = 0;
            for (int k = 0; k < 120 && i < 60 && j < 100; k++)
                sum += (double)from_bf16(a[i * 120 + k]) * from_bf16(b[j * 120 + k]);
            const float e = fabsf((float)sum - got[i * 128 + j]);
            if (!(e <= error)) error = e;
        }
    CHECK(error < 1e-4f);  // 120 numbers below 1
    CHECK(says(death([&] { run(1); }), "a barrier that was not initialized"));
    CHECK(says(death([&] { run(2); }), "more than the 1 threads of a barrier arrive"));
    CHECK(says(death([&] { run(3); }), "deadlock"));
    // Which of the two it is, and whether it is seen at once, the order decides in which threads and boxes come.
    auto wrong = [&](int mistake) {
        return death([&] {
            for (int i = 0; i < 20; i++)
                if (isnan(run(mistake)[0])) fprintf(stderr, "changed: not a number"), abort();
        });
    };
    CHECK(says(wrong(4), "changed"));
    CHECK(says(death([&] { run(5); }), "multiply_boxes without multiply_begin"));
    CHECK(says(wrong(6), "not a number") && says(wrong(7), "not a number"));
}

static void found(void *module) {
    void *f = function(module, "mistakes");
    auto mistake = [&](int how, int n) {
        return death([&] {
            Array<float> x(numbers(64));
            launch(f, {1}, {64}, 512, nullptr, how, x.at, n);
        });
    };
    std::string said = mistake(0, 0);
    CHECK(says(said, "deadlock") && says(said, "threads 0 to 39: at __syncthreads (self_test.cu:"));
    CHECK(says(said, "threads 40 to 63: at __syncwarp of mask 0xffffffff (self_test.cu:"));
    CHECK(says(mistake(1, 0), "threads 0 to 15: at __shfl_xor_sync of mask 0xffffffff"));
    CHECK(says(mistake(2, 0), "while a lane of the same mask"));
    CHECK(says(mistake(3, 0), "not in its own mask 0x00000001"));
    CHECK(says(mistake(4, 0), "misaligned"));
    CHECK(says(mistake(5, 64), "which no allocation holds"));
    CHECK(says(mistake(6, 128), "byte 512 of 512 of shared memory was written"));
    CHECK(says(mistake(8, 0), "takes all 32 lanes"));
    CHECK(says(mistake(13, 0), "load_shared of 4 bytes at 512 of 512 bytes"));
    CHECK(says(mistake(10, 1), "misaligned address"));
    said = mistake(12, 0);
    CHECK(says(said, "threads 0 to 0: at __syncwarp of mask 0xffffffff"));
    CHECK(says(said, "threads 1 to 15: at __syncwarp of mask 0x0000ffff"));
    CHECK(says(mistake(11, 3), "index 4 out of bounds for type 'float [4]'"));

    Array<float> x(16), more(16);
    const u64 gone = [] { return Array<float>(std::vector<float>(4096, 1)).at; }();
    struct Pair { u64 from, to; };  // the driver does not see pointers in a struct
    OK(launch(function(module, "copy_pair"), {1}, {1}, 0, nullptr, Pair{gone + 8192, x.at}, (u64)1));
    CHECK(isnan(x.values()[0]));
    void *nothing = function(module, "nothing");
    OK(launch(nothing, {1}, {16}, 0, nullptr, x.at, 16));
    said = death([&] { _exit(launch(nothing, {1}, {16}, 0, nullptr, gone, 16) == 700); });
    CHECK(says(said, "argument 0 of kernel nothing") && says(said, "which no live allocation holds"));
    CHECK(CU(cuMemsetD8Async, x.at, (unsigned char)0, (size_t)65, nullptr) == 1);
    CHECK(CU(cuMemsetD32Async, x.at + 4, 0u, (size_t)16, nullptr) == 1);
    CHECK(CU(cuMemcpyDtoDAsync_v2, x.at, more.at, (size_t)65, nullptr) == 1);
    CHECK(CU(cuMemcpyHtoDAsync_v2, gone, (const void *)&gone, (size_t)8, nullptr) == 1);
    CHECK(CU(cuMemFree_v2, gone) == 1);
}

static void limits(void *module) {
    void *f = function(module, "nothing");
    Array<float> x(1);
    auto error = [&](Size grid, Size block, u32 shared) { return launch(f, grid, block, shared, nullptr, x.at, 0); };
    OK(error({1}, {1024}, 48 * 1024));
    CHECK(error({1}, {1025}, 0) == 1);
    CHECK(error({1}, {32, 33}, 0) == 1);
    CHECK(error({1}, {1, 1, 65}, 0) == 1);
    CHECK(error({0}, {1}, 0) == 1);
    CHECK(error({1}, {1, 0}, 0) == 1);
    CHECK(error({1, 65536}, {1}, 0) == 1);
    CHECK(error({1, 1, 65536}, {1}, 0) == 1);
    CHECK(error({0x80000000u}, {1}, 0) == 1);
    CHECK(error({1}, {1}, 48 * 1024 + 1) == 1);
    OK(CU(cuFuncSetAttribute, f, 8, 227 * 1024));
    OK(error({1}, {1}, 227 * 1024));
    CHECK(CU(cuFuncSetAttribute, f, 8, 227 * 1024 + 1) == 1);
    std::thread([] {  // which has set no context
        size_t free, total;
        CHECK(CU(cuMemGetInfo_v2, &free, &total) == 201);
    }).join();
    void *none, *bounded = function(module, "add");  // 256 threads
    int most = 0;
    OK(CU(cuFuncGetAttribute, &most, 0, bounded));
    CHECK(most == 256);
    CHECK(launch(bounded, {1}, {257}, 0, nullptr, x.at, x.at, x.at, 0, 0.0f) == 1);
    OK(launch(bounded, {1}, {256}, 0, nullptr, x.at, x.at, x.at, 0, 0.0f));
    CHECK(CU(cuModuleGetFunction, &none, module, "no_such_kernel") == 500);

    size_t free, total;
    OK(CU(cuMemGetInfo_v2, &free, &total));
    u64 at, rest;
    CHECK(total == 1 << 20 && free == total - 4);
    CHECK(CU(cuMemAlloc_v2, &at, total) == 2);
    OK(CU(cuMemAlloc_v2, &at, free));
    CHECK(CU(cuMemAlloc_v2, &rest, (size_t)1) == 2);
    OK(CU(cuMemFree_v2, at));
}

static void graphs(void *module) {
    void *stream, *graph, *ready;
    OK(CU(cuStreamCreate, &stream, 1u));
    Array<float> x(std::vector<float>(4, 0)), y(4);
    void *f = function(module, "nothing");
    OK(CU(cuStreamBeginCapture_v2, stream, 1));
    for (int i = 0; i < 3; i++) OK(launch(f, {1}, {4}, 0, stream, x.at, 3 - i));  // the arguments are gone when it runs
    OK(CU(cuMemcpyDtoDAsync_v2, y.at, x.at, (size_t)16, stream));
    OK(CU(cuMemsetD8Async, x.at, (unsigned char)0, (size_t)8, stream));
    OK(CU(cuStreamEndCapture, stream, &graph));
    OK(CU(cuGraphInstantiateWithFlags, &ready, graph, (u64)0));
    OK(CU(cuGraphDestroy, graph));
    CHECK(x.values() == std::vector<float>(4, 0));
    OK(CU(cuGraphLaunch, ready, stream));
    OK(CU(cuGraphLaunch, ready, stream));
    OK(CU(cuStreamSynchronize, stream));
    CHECK(y.values() == (std::vector<float>{3, 2, 2, 0}));
    CHECK(x.values() == (std::vector<float>{0, 0, 2, 0}));
    for (bool kernel : {true, false}) {
        const std::string said = death([&] {
            OK(CU(cuStreamBeginCapture_v2, stream, 2));
            {
                Array<float> gone(4);
                if (kernel) launch(f, {1}, {4}, 0, stream, gone.at, 4);
                else CU(cuMemsetD8Async, gone.at, (unsigned char)0, (size_t)8, stream);
            }
            OK(CU(cuStreamEndCapture, stream, &graph));
            OK(CU(cuGraphInstantiateWithFlags, &ready, graph, (u64)0));
            OK(CU(cuGraphLaunch, ready, stream));
            OK(CU(cuStreamSynchronize, stream));
        });
        CHECK(says(said, kernel ? "a graph's nothing uses memory that was freed" : "a graph's fill uses"));
    }
    CHECK(CU(cuGraphLaunch, graph, stream) == 1);  // not made ready

    // Another graph of the same kinds takes the first one's place, but not in launches before; one of others does not.
    struct { int result; void *node, *from; } info;
    const auto captured = [&](auto work) {
        OK(CU(cuStreamBeginCapture_v2, stream, 2));
        work();
        OK(CU(cuStreamEndCapture, stream, &graph));
        return graph;
    };
    Array<float> z(std::vector<float>(4, 0));
    void *same = captured([&] {
        for (int i = 0; i < 3; i++) OK(launch(f, {1}, {4}, 0, stream, z.at, 1));
        OK(CU(cuMemcpyDtoDAsync_v2, y.at, z.at, (size_t)4, stream));
        OK(CU(cuMemsetD32Async, x.at, 0u, (size_t)4, stream));
    });
    void *other = captured([&] {
        for (int i = 0; i < 4; i++) OK(launch(f, {1}, {4}, 0, stream, z.at, 1));
        OK(CU(cuMemsetD32Async, x.at, 0u, (size_t)4, stream));
    });
    void *shorter = captured([&] { OK(launch(f, {1}, {4}, 0, stream, z.at, 1)); });
    OK(CU(cuGraphLaunch, ready, stream));  // x and y once more
    CHECK(CU(cuGraphExecUpdate_v2, ready, other, (void *)&info) == 910 && info.result == 3);
    CHECK(CU(cuGraphExecUpdate_v2, ready, shorter, (void *)&info) == 910 && info.result == 2);
    OK(CU(cuGraphExecUpdate_v2, ready, same, (void *)&info));
    CHECK(info.result == 0);
    CHECK(z.values() == std::vector<float>(4, 0));  // nothing is done by an update
    OK(CU(cuStreamSynchronize, stream));
    CHECK(y.values() == (std::vector<float>{3, 2, 3, 0}));
    OK(CU(cuGraphLaunch, ready, stream));
    OK(CU(cuStreamSynchronize, stream));
    CHECK(z.values() == (std::vector<float>{3, 0, 0, 0}));
    CHECK(y.values() == (std::vector<float>{3, 2, 3, 0}) && x.values() == std::vector<float>(4, 0));
    for (void *g : {same, other, shorter}) OK(CU(cuGraphDestroy, g));
    OK(CU(cuGraphExecDestroy, ready));
    CHECK(CU(cuGraphLaunch, ready, stream) == 1);

    // Pinned memory is read when the graph runs; pageable memory, and events, are not for captures.
    float *pinned, pageable[4] = {};
    OK(CU(cuMemHostAlloc, (void **)&pinned, (size_t)16, 0u));
    captured([&] { OK(CU(cuMemcpyHtoDAsync_v2, x.at, (const void *)pinned, (size_t)16, stream)); });
    OK(CU(cuGraphInstantiateWithFlags, &ready, graph, (u64)0));
    for (int i = 0; i < 4; i++) pinned[i] = (float)i;
    OK(CU(cuGraphLaunch, ready, stream));
    OK(CU(cuStreamSynchronize, stream));
    CHECK(x.values() == (std::vector<float>{0, 1, 2, 3}));
    OK(CU(cuGraphExecDestroy, ready));
    OK(CU(cuMemFreeHost, (void *)pinned));
    for (bool up : {true, false}) {
        OK(CU(cuStreamBeginCapture_v2, stream, 2));
        CHECK((up ? CU(cuMemcpyHtoDAsync_v2, x.at, (const void *)pageable, (size_t)16, stream)
                  : CU(cuMemcpyDtoHAsync_v2, (void *)pageable, x.at, (size_t)16, stream)) == 900);
        CHECK(CU(cuStreamEndCapture, stream, &graph) == 901);
    }
    void *event, *blocking;
    OK(CU(cuEventCreate, &event, 2u));
    OK(CU(cuStreamBeginCapture_v2, stream, 2));
    OK(CU(cuEventRecord, event, stream));
    CHECK(CU(cuEventQuery, event) == 907 && CU(cuEventSynchronize, event) == 907);
    OK(CU(cuStreamEndCapture, stream, &graph));
    OK(CU(cuEventRecord, event, stream));
    OK(CU(cuEventSynchronize, event));
    // The null stream waits for a stream that blocks it, which it cannot while that captures.
    OK(CU(cuStreamCreate, &blocking, 0u));
    OK(CU(cuStreamBeginCapture_v2, blocking, 2));
    CHECK(CU(cuMemsetD8Async, x.at, (unsigned char)0, (size_t)8, nullptr) == 906);
    CHECK(CU(cuStreamEndCapture, blocking, &graph) == 901);
    // Only in the mode that trusts its user another thread may end a capture.
    for (int mode : {1, 2}) {
        OK(CU(cuStreamBeginCapture_v2, stream, mode));
        int ended = 0;
        void *context;
        OK(CU(cuCtxGetCurrent, &context));
        std::thread([&] { CU(cuCtxSetCurrent, context), ended = CU(cuStreamEndCapture, stream, &graph); }).join();
        CHECK(ended == (mode == 1 ? 900 : 0));
        if (mode == 1) CHECK(CU(cuStreamEndCapture, stream, &graph) == 901);
    }

    OK(CU(cuStreamBeginCapture_v2, stream, 0));
    u64 at;
    CHECK(CU(cuMemAlloc_v2, &at, (size_t)16) == 900);
    CHECK(CU(cuStreamEndCapture, stream, &graph) == 901);
    OK(CU(cuStreamBeginCapture_v2, stream, 0));
    CHECK(CU(cuStreamSynchronize, stream) == 900);
    CHECK(CU(cuStreamEndCapture, stream, &graph) == 901);
    OK(CU(cuStreamDestroy_v2, stream));
}

static void compiler() {
    Compiled bad = compile("extern \"C\" __global__ void f(int *x) {\n  x[0] = y;\n}\n", {});
    CHECK(bad.result == 6 && says(bad.log, "self_test.cu:2:") && says(bad.log, "was not declared"));
    bad = compile("extern \"C\" __global__ void f() { missing(); }\nvoid missing();\n", {});
    CHECK(bad.result == 6);
    bad = compile("extern \"C\" __global__ void f(T *x) {}", {"-D", "T=float"});
    CHECK(bad.result == 6 && says(bad.log, "option -DT"));
    CHECK(compile("#define T float\nextern \"C\" __global__ void f(T *x) {}", {"-DF=1"}).result == 0);
    bad = compile("extern \"C\" __global__ void f() { __shared__ float x[32]; }", {});
    CHECK(bad.result == 6 && says(bad.log, "__shared__ without extern: __shared__ float x[32]"));
    void *module;
    CHECK(CU(cuModuleLoadData, &module, "not an object, but long enough to be looked at: ................") == 200);
}

static double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void speed(void *module) {
    Array<float> x(std::vector<float>(1 << 16, 0));
    auto seconds = [&](const char *name, int times, u32 blocks, u32 threads, int n) {
        void *f = function(module, name);
        OK(CU(cuCtxSynchronize));
        const double start = now();
        for (int i = 0; i < times; i++) launch(f, {blocks}, {threads}, 0, nullptr, x.at, n);
        OK(CU(cuCtxSynchronize));
        return (now() - start) / times;
    };
    printf("a launch %.2f us, a thread %.0f ns, a thread's wait at a barrier %.0f ns, a product of a warp %.1f us\n",
           1e6 * seconds("nothing", 1000, 1, 1, 1), 1e9 * seconds("nothing", 10, 256, 256, 1 << 16) / 65536,
           1e9 * seconds("barriers", 4, 1, 256, 1000) / 256 / 1000,
           1e6 * seconds("products", 4, 1, 256, 100) / 8 / 100);
}

// Work is done when something waits for it, and in the order that events ask for.
static void streams(void *module) {
    void *one, *two, *event, *f = function(module, "nothing");
    float *host;
    OK(CU(cuStreamCreate, &one, 1u));
    OK(CU(cuStreamCreate, &two, 1u));
    OK(CU(cuEventCreate, &event, 0u));
    OK(CU(cuMemHostAlloc, (void **)&host, (size_t)4, 0u));
    Array<float> x(std::vector<float>{0}), y(std::vector<float>{0});
    OK(CU(cuCtxSynchronize));
    *host = 7;
    OK(CU(cuMemcpyHtoDAsync_v2, x.at, (const void *)host, (size_t)4, one));
    OK(launch(f, {1}, {1}, 0, one, x.at, 1));
    OK(CU(cuMemcpyDtoDAsync_v2, y.at, x.at, (size_t)4, two));  // does not wait for the other stream
    OK(CU(cuEventRecord, event, one));
    OK(CU(cuMemcpyDtoHAsync_v2, (void *)host, y.at, (size_t)4, two));
    CHECK(*host == 7);  // not there yet
    CHECK(CU(cuStreamQuery, two) == 600);
    OK(CU(cuStreamSynchronize, two));
    CHECK(*host == 0);
    *host = 9;  // pinned memory changed too early
    OK(CU(cuStreamWaitEvent, two, event, 0u));
    OK(CU(cuMemcpyDtoDAsync_v2, y.at, x.at, (size_t)4, two));
    OK(CU(cuStreamSynchronize, two));
    CHECK(y.values()[0] == 10);
    CHECK(CU(cuEventQuery, event) == 0 && CU(cuStreamQuery, one) == 0);
    OK(CU(cuMemFreeHost, (void *)host));
    OK(CU(cuEventDestroy_v2, event));
    OK(CU(cuStreamDestroy_v2, one));
    OK(CU(cuStreamDestroy_v2, two));
}

// In a process that has AddressSanitizer loaded.
static void sanitized() {
    void *module = load({"-DREAL=double"});
    values(module), warps(module), copies(module), graphs(module);
    CHECK(sum_error(module) < 1e-4f && bf16_error(module) < 1e-5f);
    void *f = function(module, "mistakes");
    auto mistake = [&](int how, int n) {
        return death([&] {
            Array<float> x(numbers(64));
            launch(f, {1}, {64}, 512, nullptr, how, x.at, n);
        });
    };
    std::string said = mistake(7, 1);
    CHECK(says(said, "heap-buffer-overflow") && says(said, "self_test.cu:"));
    const u64 gone = [] { return Array<float>(16).at; }();
    struct Pair { u64 from, to; };
    Array<float> x(16);
    void *copy = function(module, "copy_pair");
    said = death([&] { launch(copy, {1}, {1}, 0, nullptr, Pair{gone, x.at}, (u64)1), x.values(); });
    CHECK(says(said, "heap-use-after-free") && says(said, "self_test.cu:"));
    CHECK(says(mistake(6, 128), "use-after-poison") && says(mistake(9, 128), "use-after-poison"));
}

int main(int count, char **words) {
    if (count < 4) {
        fprintf(stderr, "self_test FOLDER_OF_LIBRARIES primitives.cuh self_test.cu\n");
        return 2;
    }
    const std::string folder = words[1];
    cuda = dlopen((folder + "/libcuda.so").c_str(), RTLD_NOW);
    nvrtc = dlopen((folder + "/libnvrtc.so").c_str(), RTLD_NOW);
    if (!cuda || !nvrtc || !dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD)) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (int i = 2; i < 4; i++) {
        std::ostringstream text;
        text << std::ifstream(words[i]).rdbuf();
        const std::string path = words[i];
        program += "#line 1 \"" + path.substr(path.rfind('/') + 1) + "\"\n" + text.str();  // all of it without a slash
    }
    setenv("CUDA_ON_CPU_MEMORY", "1048576", 1);
    OK(CU(cuInit, 0u));
    void *context;
    OK(CU(cuDevicePrimaryCtxRetain, &context, 0));
    OK(CU(cuCtxSetCurrent, context));
    if (getenv("CUDA_ON_CPU_SANITIZE")) {
        sanitized();
        return failures != 0;
    }
    void *module = load({"-DREAL=double"}), *broken = load({"-D", "REAL=double", "-DNO_BARRIER", "-DNO_WAIT"});
    values(module), warps(module), tf32(module), rounding(module), orders(module), copies(module), found(module);
    boxes(module);
    limits(module), graphs(module), streams(module), compiler();
    CHECK(sum_error(module) < 1e-4f);  // 256 numbers below 1
    CHECK(!(sum_error(broken) < 1));
    CHECK(bf16_error(module) < 1e-5f);
    CHECK(!(bf16_error(broken) < 1));
    OK(CU(cuModuleUnload, broken));
    speed(module);
    fflush(stdout);

    std::string again = "CUDA_ON_CPU_SANITIZE=address ASAN_OPTIONS=detect_leaks=0 "
                        "LD_PRELOAD=$(${CXX:-g++} -print-file-name=libasan.so)";
    for (int i = 0; i < 4; i++) again += std::string(" '") + words[i] + "'";
    OK(system(again.c_str()));
    if (!failures) printf("all is well\n");
    return failures != 0;
}
