// CUDA on the CPU, as much of it as our kernels use: threads of a block are fibers that run until they wait for each
// other, in any order that is asked for. One block at a time. Nothing here knows the kernels.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

struct float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return float2{x, y}; }
struct Index3 {
    unsigned x, y, z;
};

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

namespace shim {
constexpr unsigned LANES = 32;
enum State { RUNS, AT_WARP, AT_BLOCK, DONE };

struct Fiber {
    ucontext_t context;
    jmp_buf here;
    std::vector<char> stack;
    State state;
    bool is_new;
    unsigned exchanges;
};

inline std::vector<Fiber> fibers;
inline ucontext_t entered;
inline jmp_buf scheduler;
inline unsigned current, block_size;
inline Index3 block, grid;
inline float slots[2][1024];
inline void (*body)();

// Contexts give every fiber its stack; from then on it jumps, which takes no system call.
inline void wait(State why) {
    Fiber &mine = fibers[current];
    mine.state = why;
    if (!_setjmp(mine.here)) _longjmp(scheduler, 1);
}

inline void start() {
    body();
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fiber &fiber) {
    if (_setjmp(scheduler)) return;
    if (!fiber.is_new) _longjmp(fiber.here, 1);
    fiber.is_new = false;
    swapcontext(&entered, &fiber.context);
}

inline bool all(unsigned begin, unsigned end, State state) {
    for (unsigned i = begin; i < end; i++)
        if (fibers[i].state != state) return false;
    return true;
}

inline void prepare(unsigned threads) {
    block_size = threads;
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned i = 0; i < threads; i++) {
        Fiber &f = fibers[i];
        if (f.stack.empty()) f.stack.resize(64 << 10);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = nullptr;
        makecontext(&f.context, start, 0);
        f.state = RUNS;
        f.is_new = true;
        f.exchanges = 0;
    }
}

// Threads run last to first when backward: whatever depends on their order shows.
inline void run_block(unsigned threads, bool backward) {
    prepare(threads);
    while (!all(0, threads, DONE)) {
        bool moved = false;
        for (unsigned k = 0; k < threads; k++) {
            current = backward ? threads - 1 - k : k;
            if (fibers[current].state != RUNS) continue;
            moved = true;
            resume(fibers[current]);
        }
        for (unsigned first = 0; first < threads; first += LANES)
            if (all(first, first + LANES, AT_WARP)) {
                moved = true;
                for (unsigned i = first; i < first + LANES; i++) fibers[i].state = RUNS;
            }
        if (all(0, threads, AT_BLOCK)) {
            moved = true;
            for (unsigned i = 0; i < threads; i++) fibers[i].state = RUNS;
        }
        if (!moved) {
            std::fprintf(stderr, "shim: threads of a block wait for others that never come\n");
            std::abort();
        }
    }
}
}  // namespace shim

#define threadIdx (Index3{shim::current, 0, 0})
#define blockIdx shim::block

inline void __syncthreads() { shim::wait(shim::AT_BLOCK); }
inline void __syncwarp() { shim::wait(shim::AT_WARP); }

inline float __shfl_xor_sync(unsigned lanes, float value, int other) {
    if (lanes != 0xffffffffu) std::abort();
    // two sets of slots in turn: nobody writes into one that others still read
    float *slots = shim::slots[shim::fibers[shim::current].exchanges++ % 2];
    const unsigned mine = shim::current;
    slots[mine] = value;
    shim::wait(shim::AT_WARP);
    return slots[mine ^ unsigned(other)];
}

inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    const unsigned long long before = *at;
    *at += value;
    return before;
}

inline long long __float2ll_rn(float value) { return llrintf(value); }
inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
