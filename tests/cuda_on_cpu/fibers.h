// Runs a kernel on one CPU thread, block after block; the threads of a block are fibers.
//
// A fiber runs a thread to its end, then the next one; only a thread that waits keeps a fiber of its own. So a kernel
// without barriers costs a function call per thread. Which thread and which block come next is drawn from a seed: where
// a barrier is missing, numbers come out wrong. Where no thread can go on, the message says who waits where.

#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime.h"
#if !defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_UCONTEXT
#endif
#ifdef CUDA_ON_CPU_UCONTEXT
#include <ucontext.h>
#endif

// AddressSanitizer, where the process has it loaded.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *size);
__attribute__((weak)) void __asan_poison_memory_region(const volatile void *at, size_t size);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *at, size_t size);
}

namespace cuda_on_cpu {

// A stack, and where its work stopped. The default one stands for the stack of whoever launches.
struct Fiber {
    void *saved = nullptr;  // stack pointer
    const void *bottom = nullptr;
    size_t size = 0;
    void *fake = nullptr;  // AddressSanitizer's own
    int first = 0;         // the thread with which it begins
#ifdef CUDA_ON_CPU_UCONTEXT
    ucontext_t context;
#endif
};

enum { STACK_BYTES = 256 * 1024 };  // address space; what is not touched costs no memory

static Fiber *running;  // the fiber that runs, or the one being entered
static void fiber_main();

static void entered(Fiber *from) {
    if (!__sanitizer_finish_switch_fiber) return;
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(running->fake, &bottom, &size);
    from->bottom = bottom, from->size = size;  // news only for the launcher's stack
}

static Fiber *left;  // the one that ran before the running one

static void fiber_start() {
    entered(left);
    fiber_main();
}

#ifdef CUDA_ON_CPU_UCONTEXT
static void jump(Fiber &from, Fiber &to) { swapcontext(&from.context, &to.context); }
#else
// Keeps what a called function must keep: the rest is the caller's to save.
extern "C" void cuda_on_cpu_jump(void **saved, void *to);
asm(R"(
    .text
    .type cuda_on_cpu_jump, @function
    .hidden cuda_on_cpu_jump
cuda_on_cpu_jump:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_jump, . - cuda_on_cpu_jump
)");
static void jump(Fiber &from, Fiber &to) { cuda_on_cpu_jump(&from.saved, to.saved); }
#endif

static void switch_to(Fiber &to) {
    Fiber &from = *running;
    if (&from == &to) return;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.size);
    left = &from, running = &to;
    jump(from, to);
    entered(left);
}

static Fiber *new_fiber() {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *stack = (char *)mmap(nullptr, page + STACK_BYTES, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, page, PROT_NONE)) {  // the guard page: an overflow faults
        perror("cuda_on_cpu: a fiber's stack");
        abort();
    }
    Fiber *fiber = new Fiber;
    fiber->bottom = stack + page, fiber->size = STACK_BYTES;
#ifdef CUDA_ON_CPU_UCONTEXT
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack + page;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_start, 0);
#else
    // As if fiber_start had been called (the stack pointer 8 past a multiple of 16), below it six registers of no
    // meaning.
    void **top = (void **)(stack + page + STACK_BYTES) - 1;
    *--top = (void *)fiber_start;
    fiber->saved = top - 6;
#endif
    return fiber;
}

// A block.

struct Copy { char *to; const char *from; unsigned size, bytes, group; };

// A box that the copy engine has not brought yet.
struct Mbarrier;
struct Box { char *to; TensorMap of; unsigned row, column; Mbarrier *barrier; Place place; };

enum class State { FRESH, READY, BARRIER, GROUP, MBARRIER, WARP, DONE };

struct Thread {
    Fiber *fiber;  // null until it is begun
    State state;
    // What it waits for, and what it brought:
    const char *name;
    Place place;
    Operation operation;
    void *brought;
    unsigned mask, answer;
    bool whole;
    // cp.async not delivered yet:
    std::vector<Copy> copies;
    unsigned group;
};

struct Kernel {
    std::string name;
    Entry entry;
    Dim *thread_idx, *block_idx, *block_dim, *grid_dim;
    char *shared;
    Runtime **runtime;
    unsigned shared_limit;  // bytes of dynamic shared memory that a launch may ask for
};

static const Kernel *kernel;  // the running launch
static void **arguments;
static Dim grid, block;
static Fiber launcher;

static Thread threads[1024];
static Dim indices[1024];
static unsigned count, live;                       // threads of a block, and those that have not ended
static unsigned at_barrier, predicates;            // threads at the barrier, and of these with a predicate
static unsigned alive[32], at_warp[32];            // lanes of each warp that have not ended; that wait for others of it
static unsigned at_group[16];                      // threads at each barrier of some threads
static std::vector<Box> boxes;                     // on their way
static std::vector<int> ready;                     // threads that can go on
static std::vector<Fiber *> idle;
static unsigned long long random_state;
static Runtime runtime;
static bool (*device_memory)(const void *at, size_t size);  // does it lie within one live allocation? (driver.cpp)

static unsigned random_below(unsigned n) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)((random_state >> 32) * n >> 32);
}

static void enter(int t) {
    runtime.thread = (unsigned)t;
    *kernel->thread_idx = indices[t];
}

static void print_where() {
    const Dim b = *kernel->block_idx;
    fprintf(stderr, "cuda_on_cpu: kernel %s, grid (%u, %u, %u), block (%u, %u, %u) of (%u, %u, %u) threads, seed %s:\n",
            kernel->name.c_str(), grid.x, grid.y, grid.z, b.x, b.y, b.z, block.x, block.y, block.z,
            getenv("CUDA_ON_CPU_SEED") ? getenv("CUDA_ON_CPU_SEED") : "1");
}

[[noreturn]] static void fail(Place place, const char *format, ...) {
    print_where();
    fprintf(stderr, "  thread %u: ", runtime.thread);
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, " (%s:%d)\n", place.file, place.line);
    abort();
}

// Runs of neighbors that wait for the same are one line.
[[noreturn]] static void deadlock() {
    print_where();
    fprintf(stderr, "  deadlock: no thread can go on\n");
    auto same = [](const Thread &a, const Thread &b) {
        return a.state == b.state &&
               (a.state == State::DONE || (a.name == b.name && a.place.line == b.place.line && a.mask == b.mask));
    };
    for (unsigned first = 0, next, lines = 0; first < count; first = next) {
        for (next = first + 1; next < count && same(threads[first], threads[next]);) next++;
        const Thread &t = threads[first];
        if (++lines > 40) {
            fprintf(stderr, "  ...\n");
            break;
        }
        fprintf(stderr, "  threads %u to %u: ", first, next - 1);
        if (t.state == State::DONE) fprintf(stderr, "ended\n");
        else if (t.state == State::BARRIER) fprintf(stderr, "at %s (%s:%d)\n", t.name, t.place.file, t.place.line);
        else fprintf(stderr, "at %s of mask 0x%08x (%s:%d)\n", t.name, t.mask, t.place.file, t.place.line);
    }
    abort();
}

static void deliver(size_t which);

static void make_ready(int t) {
    threads[t].state = State::READY;
    ready.push_back(t);
}

// One of the threads that can go on, no longer counted among them; -1 if there is none. The copy engine is drawn like a
// thread, once for each box.
static int take() {
    while (!ready.empty() || !boxes.empty()) {
        const size_t which = random_below((unsigned)(ready.size() + boxes.size()));
        if (which >= ready.size()) {
            deliver(which - ready.size());
            continue;
        }
        const int t = ready[which];
        ready[which] = ready.back();
        ready.pop_back();
        return t;
    }
    return -1;
}

// Leaves the running thread, which waits or has just been made ready, and returns when it is its turn again.
static void await_turn() {
    const int self = (int)runtime.thread, t = take();
    if (t < 0) deadlock();
    if (t != self) {
        Fiber *&fiber = threads[t].fiber;
        if (!fiber) {
            if (idle.empty()) idle.push_back(new_fiber());
            fiber = idle.back(), idle.pop_back();
            fiber->first = t;
        }
        switch_to(*fiber);
    }
    enter(self);
}

static void release_barrier() {
    const Thread *first = nullptr;
    for (unsigned t = 0; t < count; t++) {
        Thread &here = threads[t];
        if (here.state != State::BARRIER) continue;
        if (!first) first = &here;
        if (strcmp(here.name, first->name))
            fail(here.place, "%s meets %s (%s:%d)", here.name, first->name, first->place.file, first->place.line);
        here.answer = predicates;
        make_ready((int)t);
    }
    at_barrier = predicates = 0;
}

static unsigned barrier(const char *name, bool predicate, Place place) {
    Thread &self = threads[runtime.thread];
    self.state = State::BARRIER, self.name = name, self.place = place, self.mask = 0;
    predicates += predicate;
    if (++at_barrier == live) release_barrier();
    await_turn();
    return self.answer;
}

// Performs what the lanes of mask came for, if all that live are there.
static void release_warp(unsigned warp, unsigned mask) {
    const unsigned members = mask & alive[warp];
    if (!members || (members & ~at_warp[warp])) return;
    Thread *lanes = threads + 32 * warp;
    const Thread &first = lanes[__builtin_ctz(members)];
    void *brought[32] = {};
    for (int i = 0; i < 32; i++) {
        if (!(members >> i & 1)) continue;
        if (lanes[i].mask != mask) return;
        if (lanes[i].operation != first.operation)
            fail(lanes[i].place, "lane %d is at %s while a lane of the same mask 0x%08x is at %s (%s:%d)", i,
                 lanes[i].name, mask, first.name, first.place.file, first.place.line);
        brought[i] = lanes[i].brought;
    }
    if (first.whole && members != ~0u)
        fail(first.place, "%s takes all 32 lanes of a warp; 0x%08x came, the others have ended", first.name, members);
    first.operation(brought);
    at_warp[warp] &= ~members;
    for (int i = 0; i < 32; i++)
        if (members >> i & 1) make_ready((int)(32 * warp) + i);
}

static void together(const char *name, Operation operation, void *brought, unsigned mask, bool whole, Place place) {
    const unsigned warp = runtime.thread / 32, bit = 1u << runtime.thread % 32;
    Thread &self = threads[runtime.thread];
    if (!(mask & bit)) fail(place, "%s by a lane that is not in its own mask 0x%08x", name, mask);
    self.state = State::WARP, self.name = name, self.place = place, self.operation = operation;
    self.brought = brought, self.mask = mask, self.whole = whole;
    at_warp[warp] |= bit;
    release_warp(warp, mask);
    await_turn();
}

static void copy_async(void *to, const void *from, unsigned size, unsigned bytes, Place place) {
    Thread &self = threads[runtime.thread];
    if ((size_t)to % size || (size_t)from % size || bytes > size)
        fail(place, "copy_async of %u bytes, of %u possible, from %p to %p: is one misaligned?", bytes, size, from, to);
    const long at = (char *)to - kernel->shared;
    if (at < 0 || at + size > runtime.shared_bytes)
        fail(place, "copy_async writes at %ld of %u bytes of shared memory", at, runtime.shared_bytes);
    if (bytes && !device_memory(from, bytes))
        fail(place, "copy_async reads %u bytes at %p, which no allocation holds", bytes, from);
    memset(to, 0xFF, size);
    self.copies.push_back({(char *)to, (const char *)from, size, bytes, self.group});
}

static void copy_async_commit() { threads[runtime.thread].group++; }

static void copy_async_wait(unsigned pending) {
    Thread &self = threads[runtime.thread];
    size_t kept = 0;
    for (const Copy &copy : self.copies) {
        if (copy.group + pending < self.group) {
            memcpy(copy.to, copy.from, copy.bytes);
            memset(copy.to + copy.bytes, 0, copy.size - copy.bytes);
        } else {
            self.copies[kept++] = copy;
        }
    }
    self.copies.resize(kept);
}

static void barrier_of(unsigned id, unsigned threads_of_it, Place place) {
    if (!id || id >= 16 || threads_of_it % 32 || threads_of_it > count)
        fail(place, "barrier %u of %u threads, in a block of %u", id, threads_of_it, count);
    Thread &self = threads[runtime.thread];
    self.state = State::GROUP, self.name = "barrier_of", self.place = place, self.mask = id;
    if (++at_group[id] == threads_of_it) {
        at_group[id] = 0;
        for (unsigned t = 0; t < count; t++)
            if (threads[t].state == State::GROUP && threads[t].mask == id) make_ready((int)t);
    }
    await_turn();
}

// As it lies in shared memory, which is 0xFF before it is initialized.
struct Mbarrier {
    short count, left;  // threads that are to arrive in each phase, and in this one yet
    int bytes : 31;     // that are to arrive yet
    unsigned parity : 1;
};

static Mbarrier &initialized(void *at, Place place) {
    auto *barrier = (Mbarrier *)at;
    if (barrier->count <= 0) fail(place, "a barrier that was not initialized");
    return *barrier;
}

static void mbarrier_init(void *at, unsigned of, Place) { *(Mbarrier *)at = {(short)of, (short)of, 0, 0}; }

// Ends the phase, if all has arrived.
static void check_phase(Mbarrier &barrier) {
    if (barrier.left || barrier.bytes) return;
    barrier.left = barrier.count, barrier.parity ^= 1;
    for (unsigned t = 0; t < count; t++)
        if (threads[t].state == State::MBARRIER && threads[t].brought == &barrier && threads[t].mask != barrier.parity)
            make_ready((int)t);
}

static void mbarrier_arrive(void *at, unsigned expected_bytes, Place place) {
    Mbarrier &barrier = initialized(at, place);
    if (!barrier.left) fail(place, "more than the %d threads of a barrier arrive", barrier.count);
    barrier.left--, barrier.bytes += (int)expected_bytes;
    check_phase(barrier);
}

static void mbarrier_wait(void *at, unsigned parity, Place place) {
    Mbarrier &barrier = initialized(at, place);
    Thread &self = threads[runtime.thread];
    self.name = "barrier_wait", self.place = place, self.brought = at, self.mask = parity;
    if (barrier.parity == parity) self.state = State::MBARRIER;
    else make_ready((int)runtime.thread);
    await_turn();
}

static void copy_box(char *to, const TensorMap &of, unsigned row, unsigned column, void *barrier, Place place) {
    if (of.magic != TensorMap::MAGIC || (size_t)&of % 64) fail(place, "copy_box of what is no tensor map, or misaligned");
    const long at = to - kernel->shared, bytes = 128l * of.box_rows;
    if (at % 1024 || at < 0 || at + bytes > runtime.shared_bytes)
        fail(place, "copy_box of %ld bytes to %ld of %u bytes of shared memory", bytes, at, runtime.shared_bytes);
    if (!device_memory((const void *)of.address, (of.rows - 1) * of.pitch + of.columns * 2))
        fail(place, "copy_box of a matrix at 0x%llx, which no allocation holds", of.address);
    memset(to, 0xFF, (size_t)bytes);
    boxes.push_back({to, of, row, column, &initialized(barrier, place), place});
}

static void prefetch(const void *from, unsigned bytes, Place place) {
    if ((size_t)from % 16 || bytes % 16 || !device_memory(from, bytes))
        fail(place, "prefetch of %u bytes at %p: misaligned, or no allocation holds them", bytes, from);
}

static void deliver(size_t which) {
    const Box box = boxes[which];
    boxes[which] = boxes.back();
    boxes.pop_back();
    for (unsigned r = 0; r < box.of.box_rows; r++)
        for (unsigned chunk = 0; chunk < 8; chunk++) {
            char *to = box.to + 128 * r + 16 * (chunk ^ r % 8);
            const unsigned long long row = box.row + r, column = box.column + 8 * chunk;
            const bool inside = row < box.of.rows && column < box.of.columns;
            const size_t elements = inside ? std::min(8ull, box.of.columns - column) : 0;
            memset(to, 0, 16);
            memcpy(to, (const char *)box.of.address + row * box.of.pitch + 2 * column, 2 * elements);
        }
    box.barrier->bytes -= (int)(128 * box.of.box_rows);
    check_phase(*box.barrier);
}

static void run_thread(int t) {
    Thread &self = threads[t];
    enter(t);
    kernel->entry.launch(arguments);
    self.state = State::DONE;
    self.copies.clear(), self.group = 0;
    live--;
    const unsigned warp = (unsigned)t / 32;
    alive[warp] &= ~(1u << t % 32);
    // Who has ended is not waited for.
    if (at_barrier && at_barrier == live) release_barrier();
    for (unsigned waiting = at_warp[warp]; waiting;) {
        const unsigned mask = threads[32 * warp + (unsigned)__builtin_ctz(waiting)].mask;
        release_warp(warp, mask);
        waiting &= ~mask;
    }
}

// A fiber without a thread takes one that has not begun, or makes way for one that has.
static void fiber_main() {
    for (Fiber *self = running;;) {
        int t = self->first;
        do {
            threads[t].fiber = self;
            run_thread(t);
            t = take();
        } while (t >= 0 && !threads[t].fiber);
        if (t < 0 && live) deadlock();
        idle.push_back(self);
        switch_to(t < 0 ? launcher : *threads[t].fiber);
    }
}

static void run_block() {
    memset(kernel->shared, 0xFF, runtime.shared_bytes + (__asan_poison_memory_region ? 0 : SHARED_MARGIN));
    ready.resize(count);
    for (unsigned t = 0; t < count; t++) {
        threads[t].fiber = nullptr, threads[t].state = State::FRESH;
        ready[t] = (int)t;
    }
    for (unsigned warp = 0; 32 * warp < count; warp++)
        alive[warp] = count - 32 * warp >= 32 ? ~0u : (1u << (count - 32 * warp)) - 1;
    live = count, runtime.block++;
    if (idle.empty()) idle.push_back(new_fiber());
    Fiber *fiber = idle.back();
    idle.pop_back();
    fiber->first = take();
    switch_to(*fiber);
    for (unsigned i = 0; i < SHARED_MARGIN && !__asan_poison_memory_region; i++) {
        if (kernel->shared[runtime.shared_bytes + i] == (char)0xFF) continue;
        print_where();
        const unsigned all = runtime.shared_bytes;
        fprintf(stderr, "  byte %u of %u of shared memory was written\n", all + i, all);
        abort();
    }
}

// The caller has checked everything, and lets one launch run at a time.
static void run(const Kernel &what, Dim grid_dim, Dim block_dim, unsigned shared, void **values) {
    kernel = &what, grid = grid_dim, block = block_dim, arguments = values;
    running = &launcher;
    if (!random_state) {
        const char *seed = getenv("CUDA_ON_CPU_SEED");
        random_state = seed ? strtoull(seed, nullptr, 10) * 2 + 1 : 3;
        runtime = {0,          0,          0,             barrier,         together,      copy_async, copy_async_commit,
                   copy_async_wait, barrier_of, mbarrier_init, mbarrier_arrive, mbarrier_wait, copy_box, prefetch, fail};
    }
    runtime.shared_bytes = shared;
    *what.runtime = &runtime, *what.grid_dim = grid, *what.block_dim = block;
    count = block.x * block.y * block.z;
    for (unsigned t = 0; t < count; t++) indices[t] = {t % block.x, t / block.x % block.y, t / block.x / block.y};
    if (__asan_poison_memory_region) {
        __asan_unpoison_memory_region(what.shared, shared);
        __asan_poison_memory_region(what.shared + shared, SHARED_BYTES + SHARED_MARGIN - shared);
    }
    // Every step is coprime to the number of blocks, so each comes up once.
    const unsigned long long blocks = (unsigned long long)grid.x * grid.y * grid.z;
    unsigned long long step = random_below((unsigned)blocks) | 1, at = random_below((unsigned)blocks);
    auto gcd = [](unsigned long long a, unsigned long long b) {
        while (b) {
            unsigned long long rest = a % b;
            a = b, b = rest;
        }
        return a;
    };
    while (gcd(step, blocks) != 1) step++;
    for (unsigned long long i = 0; i < blocks; i++, at = (at + step) % blocks) {
        *what.block_idx = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
        run_block();
    }
}

}  // namespace cuda_on_cpu
