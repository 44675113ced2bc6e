// CUDA blocks on a CPU: every thread a fiber, every exchange of a warp a meeting of its 32. Slow, exact, repeatable.
// Fragments are laid out as the PTX ISA says of ldmatrix and of mma.m16n8k16. Has what short_attention_device.h has.

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define EMULATED
#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(...)

typedef unsigned short u16;
typedef unsigned int u32;
struct alignas(16) Eight { u32 x[4]; };
struct Index { unsigned x; };

alignas(16) u16 shared[1 << 17];
Index blockIdx;

struct Meeting {
    int here = 0, held = 0;
};
struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Index index;
    bool done = false;
};
inline std::vector<Fiber> fibers;
inline std::vector<Meeting> warps;
inline Meeting everybody;
inline Fiber* now;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline u32 slots[64][32][8];
#define threadIdx (now->index)

inline void meet(Meeting& meeting, int members) {
    int held = meeting.held;
    if (++meeting.here == members) meeting.here = 0, meeting.held++;
    while (meeting.held == held) swapcontext(&now->context, &scheduler);
}
inline void meet_warp() { meet(warps[threadIdx.x / 32], 32); }
inline void __syncthreads() { meet(everybody, (int)fibers.size()); }

inline void run_fiber() {
    body();
    now->done = true;
    swapcontext(&now->context, &scheduler);
}

inline void run_block(int threads, std::function<void()> kernel) {
    body = std::move(kernel);
    fibers = std::vector<Fiber>(threads);
    warps.assign(threads / 32, Meeting{});
    everybody = Meeting{};
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        fiber.stack.reset(new char[1 << 16]);
        fiber.index.x = i;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = 1 << 16;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool more = true; more;) {
        more = false;
        for (Fiber& fiber : fibers)
            if (!fiber.done) {
                more = true;
                now = &fiber;
                swapcontext(&scheduler, &fiber.context);
            }
    }
}

inline u16 rounded(float x) {
#if F16
    _Float16 half = (_Float16)x;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
#else
    u32 bits;
    memcpy(&bits, &x, 4);
    return std::isnan(x) ? 0x7fc0 : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}
inline float widened(u16 bits) {
#if F16
    _Float16 half;
    memcpy(&half, &bits, 2);
    return (float)half;
#else
    u32 wide = (u32)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
#endif
}

inline u32 pack(float low, float high) { return rounded(low) | (u32)rounded(high) << 16; }
inline float number(const Eight& eight, int i) { return widened((u16)(eight.x[i / 2] >> (i % 2 * 16))); }
inline float exp2_fast(float x) { return exp2f(x); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline int min(int a, int b) { return a < b ? a : b; }
inline void store2(u16* to, float low, float high) { to[0] = rounded(low), to[1] = rounded(high); }
inline Eight load8(const u16* from) { return *(const Eight*)from; }
inline void store8_shared(u16* to, const Eight& x) { *(Eight*)to = x; }
inline void store8_global(u16* to, const Eight& x) { *(Eight*)to = x; }
inline void warp_done() { meet_warp(); }
inline void copies_done() {}
inline void copy16(u16* to, const u16* from, bool real) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) fprintf(stderr, "a copy that is not aligned\n"), exit(1);
    for (int i = 0; i < 8; i++) to[i] = real ? from[i] : 0;
}

inline u32 (*slot())[8] { return slots[threadIdx.x / 32]; }

inline float swapped(float x, int way) {
    int lane = threadIdx.x % 32;
    memcpy(&slot()[lane][0], &x, 4);
    meet_warp();
    memcpy(&x, &slot()[lane ^ way][0], 4);
    meet_warp();
    return x;
}

inline bool anywhere(bool x) {
    slot()[threadIdx.x % 32][0] = x;
    meet_warp();
    bool found = false;
    for (int lane = 0; lane < 32; lane++) found |= slot()[lane][0];
    meet_warp();
    return found;
}

inline void load_matrices(u32 (&r)[4], const u16* at, bool turned) {
    int lane = threadIdx.x % 32;
    if ((uintptr_t)at % 16) fprintf(stderr, "a row of a matrix that is not aligned\n"), exit(1);
    memcpy(&slot()[lane][0], &at, sizeof at);
    meet_warp();
    for (int j = 0; j < 4; j++) {
        u16 two[2];
        for (int i = 0; i < 2; i++) {
            int row = turned ? lane % 4 * 2 + i : lane / 4, column = turned ? lane / 4 : lane % 4 * 2 + i;
            const u16* from;
            memcpy(&from, &slot()[8 * j + row][0], sizeof from);
            two[i] = from[column];
        }
        r[j] = two[0] | (u32)two[1] << 16;
    }
    meet_warp();
}
inline void load_matrix(u32 (&r)[4], const u16* at) { load_matrices(r, at, false); }
inline void load_matrix_turned(u32 (&r)[4], const u16* at) { load_matrices(r, at, true); }

inline void mma(float (&d)[4], const float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    int lane = threadIdx.x % 32;
    u32* mine = slot()[lane];
    for (int i = 0; i < 4; i++) mine[i] = a[i];
    mine[4] = b0, mine[5] = b1;
    meet_warp();
    auto half = [](u32 two, int which) { return widened((u16)(two >> (which * 16))); };
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        d[i] = c[i];
        for (int k = 0; k < 16; k++) {
            float left = half(slot()[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
            d[i] += left * half(slot()[column * 4 + k % 8 / 2][4 + k / 8], k % 2);
        }
    }
    meet_warp();
}
inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma(c, c, a, b0, b1); }

// All blocks of a kernel, one after another, with arguments that came as words of 64 bits.
template <class X> X argument(uint64_t word) {
    X x;
    memcpy(&x, &word, sizeof x);
    return x;
}
template <class... A, size_t... I>
void launch(void (*kernel)(A...), int blocks, int threads, const uint64_t* words, std::index_sequence<I...>) {
    for (blockIdx.x = 0; blockIdx.x < (unsigned)blocks; blockIdx.x++) {
        memset(shared, 0x7e, sizeof shared);  // what was not staged is no number
        run_block(threads, [&] { kernel(argument<A>(words[I])...); });
    }
}
template <class... A> void launch(void (*kernel)(A...), int blocks, int threads, const uint64_t* words) {
    launch(kernel, blocks, threads, words, std::index_sequence_for<A...>{});
}
