// Attention over at most 256 tokens, forward and backward, on the tensor cores of an NVIDIA GPU (Ampere or later).
//
// A block of threads owns one head of one image and stages all of it in shared memory. Each warp then works alone, on
// some tiles of 16 rows at a time, and keeps scores and probabilities in registers from their making to their use:
// nothing is exchanged between warps, and no warp waits for another. The backward pass computes the scores twice, once
// by keys (for dk and dv) and once by queries (for dq), because that costs less than turning them around or adding up
// parts of dq. No sum depends on the order in which warps run: the same inputs give the same bits.
//
// Written before this by whoever compiles: M queries, T keys, D numbers a head (32 or 64), H heads, WARPS, TILES of 16
// rows that a warp takes at a time (the last group may read on into what follows, and drops it), BLOCKS that a
// multiprocessor should hold, BIASED; F16 is 0 for bfloat16. Strides count numbers. Scores are taken times log2(e), for
// ex2. Rows beyond the last token are read as zeros.

#ifndef EMULATED
#include "short_attention_device.h"
#endif

constexpr int THREADS = 32 * WARPS;
constexpr int QT = (M + 15) / 16, KT = (T + 15) / 16;                      // tiles with a real row
constexpr int QG = (QT + TILES - 1) / TILES, KG = (KT + TILES - 1) / TILES;  // groups of tiles
constexpr int ROW = D + 8;       // numbers from row to row: eight rows lie in different banks
constexpr int TILE = 16 * ROW;
constexpr int CHUNKS = D / 8;    // of 16 bytes
constexpr int STEPS = D / 16;    // of a product over D
constexpr float SCALE = D == 64 ? 0.125f : 0.17677669529663687f;  // 1 / sqrt(D)
constexpr float TO_LOG2 = SCALE * 1.4426950408889634f;  // from a product of query and key to the power of two it means
constexpr int KEYS_AT_ONCE = 4 / TILES;                 // tiles of keys in a round of the softmax
constexpr int LAST = (KT - 1) % KEYS_AT_ONCE + 1;       // in the last round

static_assert(TILES <= 4 && (D == 32 || D == 64));

struct alignas(8) Two { float x[2]; };
struct Rows { const u16* at; int next; };  // the rows of a head: the first, and the way to the following
typedef float Products[TILES][2][4];       // of 16 rows a tile with 16 others: [16, 16]
typedef float Sums[TILES][CHUNKS][4];      // [16, D] a tile
typedef u32 Left[TILES][STEPS][4];         // [16, D] a tile as left factor

// Rows to shared memory, in whole tiles.
template <int TILES_OF_ROWS>
__device__ inline void stage(u16* to, Rows from, int rows) {
    constexpr int PASS = THREADS / CHUNKS;  // rows that all threads copy at a time
    const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS * 8;
#pragma unroll
    for (int i = 0; i < TILES_OF_ROWS * 16; i += PASS) {
        int row = first + i;
        if (TILES_OF_ROWS * 16 % PASS == 0 || row < TILES_OF_ROWS * 16)
            copy16(to + row * ROW + chunk, from.at + (long long)min(row, rows - 1) * from.next + chunk, row < rows);
    }
}

// Where a lane reads its part of a tile of 16 rows and columns: the quarters of the tile come columns first, as a left
// factor or a turned right one wants them; or rows first, so that a right factor's registers lie side by side.
__device__ inline int columns_first() { return threadIdx.x % 16 * ROW + threadIdx.x % 32 / 16 * 8; }
__device__ inline int rows_first() {
    return (threadIdx.x % 8 + threadIdx.x % 32 / 16 * 8) * ROW + threadIdx.x / 8 % 2 * 8;
}

__device__ inline void load_left(Left& left, const u16* rows) {
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int k = 0; k < STEPS; k++) load_matrix(left[i][k], rows + columns_first() + i * TILE + k * 16);
}

// A lane has two products next to one another of rows g and g + 8 of a tile, in every 8 columns. They go by way of the
// warp's own `room` (a tile) to whole rows of memory.
__device__ inline void store(u16* to, int next, u16* room, int first, int rows, Sums& x, float factor) {
    int lane = threadIdx.x % 32;
    u16* mine = room + lane / 4 * ROW + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        warp_done();
#pragma unroll
        for (int n = 0; n < CHUNKS; n++) {
            store2(mine + n * 8, x[i][n][0] * factor, x[i][n][1] * factor);
            store2(mine + 8 * ROW + n * 8, x[i][n][2] * factor, x[i][n][3] * factor);
        }
        warp_done();
#pragma unroll
        for (int j = lane; j < 16 * CHUNKS; j += 32) {
            int row = first + i * 16 + j / CHUNKS, chunk = j % CHUNKS * 8;
            if (row < rows) store8_global(to + (long long)row * next + chunk, load8(room + j / CHUNKS * ROW + chunk));
        }
    }
}

// Products as the left factor of another product.
__device__ inline void as_left(u32 (&a)[4], float (&x)[2][4]) {
    a[0] = pack(x[0][0], x[0][1]), a[1] = pack(x[0][2], x[0][3]);
    a[2] = pack(x[1][0], x[1][1]), a[3] = pack(x[1][2], x[1][3]);
}

// x = from + left times the transpose of 16 rows in shared memory
__device__ inline void times_rows(Products& x, Left& left, const u16* rows, const Products& from) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 b[4];
        load_matrix(b, rows + rows_first() + k * 16);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            if (k == 0) {
                mma(x[i][0], from[i][0], left[i][k], b[0], b[1]);
                mma(x[i][1], from[i][1], left[i][k], b[2], b[3]);
            } else {
                mma(x[i][0], left[i][k], b[0], b[1]);
                mma(x[i][1], left[i][k], b[2], b[3]);
            }
        }
    }
}

// x += p [16, 16 a tile] times 16 rows in shared memory
__device__ inline void times_columns(Sums& x, Products& p, const u16* rows) {
    u32 left[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) as_left(left[i], p[i]);
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 b[4];
        load_matrix_turned(b, rows + columns_first() + k * 16);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            mma(x[i][2 * k], left[i], b[0], b[1]);
            mma(x[i][2 * k + 1], left[i], b[2], b[3]);
        }
    }
}

// --- forward ---------------------------------------------------------------------------------------------------------

// One round of the softmax: COUNT tiles of keys. What the exponents are taken from, `top`, is the greatest score when
// it was last looked up: it is looked up again where a score is more than 8 above it, in powers of two.
template <int COUNT>
__device__ inline void attend_some(
    int first, Left& query, const u16* sk, const u16* sv, Sums& mixed, float (&top)[TILES][2],
    float (&total)[TILES][2]) {
    const Products zero = {};
    Products s[COUNT];
    float most[TILES][2];
    bool far = false;
#pragma unroll
    for (int i = 0; i < TILES; i++) most[i][0] = most[i][1] = -INFINITY;
#pragma unroll
    for (int t = 0; t < COUNT; t++) {
        times_rows(s[t], query, sk + (first + t) * TILE, zero);
#pragma unroll
        for (int j = 0; j < TILES * 8; j++) {
            float& x = s[t][j / 8][j / 4 % 2][j % 4];
            const bool past = j / 4 % 2 * 8 + threadIdx.x % 4 * 2 + j % 2 >= T - (KT - 1) * 16;
            if (COUNT == LAST && first + t == KT - 1 && past) x = -INFINITY;
            most[j / 8][j % 4 / 2] = max(most[j / 8][j % 4 / 2], x);
        }
    }
#pragma unroll
    for (int j = 0; j < TILES * 2; j++) far |= most[j / 2][j % 2] * TO_LOG2 - 8.0f > top[j / 2][j % 2];
    if (anywhere(far)) {
#pragma unroll
        for (int j = 0; j < TILES * 2; j++) {
            float &t = top[j / 2][j % 2], now = most[j / 2][j % 2];
            now = max(now, swapped(now, 1));
            now = max(t, max(now, swapped(now, 2)) * TO_LOG2);
            float shrink = exp2_fast(t - now);
            t = now;
            total[j / 2][j % 2] *= shrink;
#pragma unroll
            for (int n = 0; n < 2 * CHUNKS; n++) mixed[j / 2][n / 2][j % 2 * 2 + n % 2] *= shrink;
        }
    }
#pragma unroll
    for (int t = 0; t < COUNT; t++) {
#pragma unroll
        for (int j = 0; j < TILES * 8; j++) {
            float& x = s[t][j / 8][j / 4 % 2][j % 4];
            x = exp2_fast(x * TO_LOG2 - top[j / 8][j % 4 / 2]);
            total[j / 8][j % 4 / 2] += x;
        }
        times_columns(mixed, s[t], sv + (first + t) * TILE);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) forward(
    const u16* q, const u16* k, const u16* v, u16* out, float* lse,
    long long q_b, long long q_m, long long q_h, long long k_b, long long k_t, long long k_h) {
    extern __shared__ u16 shared[];
    u16 *sk = shared, *sv = sk + KT * TILE, *sq = sv + KT * TILE, *room = sq + QT * TILE;
    long long b = blockIdx.x / H, h = blockIdx.x % H;
    stage<QT>(sq, {q + b * q_b + h * q_h, (int)q_m}, M);
    stage<KT>(sk, {k + b * k_b + h * k_h, (int)k_t}, T);
    stage<KT>(sv, {v + b * k_b + h * k_h, (int)k_t}, T);
    copies_done();
    __syncthreads();

    room += threadIdx.x / 32 * TILE;
    for (int group = threadIdx.x / 32; group < QG; group += WARPS) {
        Left query;
        load_left(query, sq + group * TILES * TILE);
        Sums mixed = {};
        float top[TILES][2], total[TILES][2] = {};
#pragma unroll
        for (int i = 0; i < TILES; i++) top[i][0] = top[i][1] = -INFINITY;
#pragma unroll 1
        for (int first = 0; first < KT - LAST; first += KEYS_AT_ONCE)
            attend_some<KEYS_AT_ONCE>(first, query, sk, sv, mixed, top, total);
        attend_some<LAST>(KT - LAST, query, sk, sv, mixed, top, total);
#pragma unroll
        for (int j = 0; j < TILES * 2; j++) {
            int row = (group * TILES + j / 2) * 16 + j % 2 * 8 + threadIdx.x % 32 / 4;
            float& t = total[j / 2][j % 2];
            t += swapped(t, 1);
            t += swapped(t, 2);
            float part = 1.0f / t;
#pragma unroll
            for (int n = 0; n < 2 * CHUNKS; n++) mixed[j / 2][n / 2][j % 2 * 2 + n % 2] *= part;
            if (threadIdx.x % 4 == 0 && row < M)
                lse[(b * H + h) * M + row] = top[j / 2][j % 2] + log2f(t);
        }
        store(out + b * (M * H * D) + h * D, H * D, room, group * TILES * 16, M, mixed, 1.0f);
    }
}

// --- backward --------------------------------------------------------------------------------------------------------

// A head in shared memory: rows of queries, keys, values and dout; of each query the log2 of its summed exponentials
// and minus the sum of out * dout, from which the products of dout and values start.
struct Head { const u16 *q, *k, *v, *dout; const float *lse, *minus_delta; };

// dk and dv of a group of keys: all queries pass by. The scores stand with keys going down.
__device__ inline void by_keys(int group, const Head& s, u16* room, u16* dk, u16* dv, int next) {
    const int column = threadIdx.x % 4 * 2;
    Left key, value;
    load_left(key, s.k + group * TILES * TILE);
    load_left(value, s.v + group * TILES * TILE);
    Sums to_k = {}, to_v = {};
#pragma unroll 1
    for (int i = 0; i < QT; i++) {
        Products p, ds, zero = {}, minus;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const Two delta = *(const Two*)(s.minus_delta + i * 16 + n * 8 + column);
#pragma unroll
            for (int j = 0; j < TILES * 4; j++) minus[j / 4][n][j % 4] = delta.x[j % 2];
        }
        times_rows(p, key, s.q + i * TILE, zero);
        times_rows(ds, value, s.dout + i * TILE, minus);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const Two lse = *(const Two*)(s.lse + i * 16 + n * 8 + column);
#pragma unroll
            for (int j = 0; j < TILES * 4; j++) {
                float &a = p[j / 4][n][j % 4], &d = ds[j / 4][n][j % 4];
                a = exp2_fast(a * TO_LOG2 - lse.x[j % 2]);
                d *= a;
            }
        }
        times_columns(to_v, p, s.dout + i * TILE);
        times_columns(to_k, ds, s.q + i * TILE);
    }
    store(dk, next, room, group * TILES * 16, T, to_k, SCALE);
    store(dv, next, room, group * TILES * 16, T, to_v, 1.0f);
}

// dq of a group of queries: all keys pass by. Adds the columns of dq to `down`, as a lane has them.
__device__ inline void by_queries(
    int group, const Head& s, u16* room, u16* dq, int next, float (&down)[CHUNKS][2]) {
    const int row = group * TILES * 16 + threadIdx.x % 32 / 4;
    Left query, dout;
    load_left(query, s.q + group * TILES * TILE);
    load_left(dout, s.dout + group * TILES * TILE);
    float lse[TILES][2];
    Products minus;
#pragma unroll
    for (int j = 0; j < TILES * 2; j++) {
        lse[j / 2][j % 2] = s.lse[row + j * 8];
#pragma unroll
        for (int n = 0; n < 4; n++) minus[j / 2][n / 2][j % 2 * 2 + n % 2] = s.minus_delta[row + j * 8];
    }
    Sums to_q = {};
#pragma unroll 1
    for (int i = 0; i < KT; i++) {
        Products p, ds, zero = {};
        times_rows(p, query, s.k + i * TILE, zero);
        times_rows(ds, dout, s.v + i * TILE, minus);
#pragma unroll
        for (int j = 0; j < TILES * 8; j++) {
            float &a = p[j / 8][j / 4 % 2][j % 4], &d = ds[j / 8][j / 4 % 2][j % 4];
            d *= exp2_fast(a * TO_LOG2 - lse[j / 8][j % 4 / 2]);
        }
        if (T % 16 && i == KT - 1)  // a padded key scores 0, whose exp2 overflows where all real scores are far below
#pragma unroll
            for (int j = 0; j < TILES * 8; j++)
                if (i * 16 + j / 4 % 2 * 8 + threadIdx.x % 4 * 2 + j % 2 >= T) ds[j / 8][j / 4 % 2][j % 4] = 0.0f;
        times_columns(to_q, ds, s.k + i * TILE);
    }
    store(dq, next, room, group * TILES * 16, M, to_q, SCALE);
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int n = 0; n < CHUNKS; n++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                if (row + i * 16 + c / 2 * 8 < M) down[n][c % 2] += to_q[i][n][c];
}

// Stage dout; minus the sums of out * dout along each row; adds this thread's part of the columns of dout to `down`.
__device__ inline void stage_dout(u16* to, float* minus_delta, Rows dout, Rows out, float (&down)[8]) {
    constexpr int ROUNDS = (QT * 16 * CHUNKS + THREADS - 1) / THREADS;
    Eight a[ROUNDS] = {}, b[ROUNDS] = {};
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {  // all on their way before the first is needed
        int i = threadIdx.x + r * THREADS, row = i / CHUNKS, chunk = i % CHUNKS;
        if (row < M) {
            a[r] = load8(dout.at + (long long)row * dout.next + chunk * 8);
            b[r] = load8(out.at + (long long)row * out.next + chunk * 8);
        }
    }
#pragma unroll
    for (int r = 0; r < ROUNDS; r++) {
        int i = threadIdx.x + r * THREADS, row = i / CHUNKS, chunk = i % CHUNKS;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float x = number(a[r], j);
            sum += x * number(b[r], j);
            if (BIASED) down[j] += x;
        }
#pragma unroll
        for (int way = 1; way < CHUNKS; way *= 2) sum += swapped(sum, way);
        if (row < QT * 16) {
            store8_shared(to + row * ROW + chunk * 8, a[r]);
            if (chunk == 0) minus_delta[row] = -sum;
        }
    }
}

// Gradients of the biases that queries and values contain, of this image: dbias [3, H, D]. That of values is the sum
// of dout, since the probabilities of a query add up to one; that of keys is zero, since a softmax does not see a
// shift of all its scores.
__device__ inline void store_dbias(float* dbias, float* parts, float (&dq)[CHUNKS][2], float (&dv)[8]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();  // `parts` lies where the warps stored by way of
#pragma unroll
    for (int n = 0; n < CHUNKS; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float x = dq[n][c];
#pragma unroll
            for (int way = 4; way < 32; way *= 2) x += swapped(x, way);
            if (lane < 4) parts[warp * 2 * D + n * 8 + lane * 2 + c] = x * SCALE;
        }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float x = dv[j];
#pragma unroll
        for (int way = CHUNKS; way < 32; way *= 2) x += swapped(x, way);
        if (lane < CHUNKS) parts[warp * 2 * D + D + lane * 8 + j] = x;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * D; i += THREADS) {
        float x = 0.0f;
        for (int w = 0; w < WARPS; w++) x += parts[w * 2 * D + i];
        dbias[(i / D) * 2 * H * D + i % D] = x;
        if (i < D) dbias[H * D + i] = 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backward(
    const u16* q, const u16* k, const u16* v, const u16* out, const float* lse, const u16* dout,
    u16* dq, u16* dk, u16* dv, float* dbias,
    long long q_b, long long q_m, long long q_h, long long k_b, long long k_t, long long k_h,
    long long o_b, long long o_m, long long o_h, long long g_b, long long g_m, long long g_h,
    long long d_b, long long d_t, long long d_h) {
    extern __shared__ u16 shared[];
    u16 *sk = shared, *sv = sk + KT * TILE, *sq = sv + KT * TILE, *sdout = sq + QT * TILE, *room = sdout + QT * TILE;
    float *parts = (float*)room, *slse = (float*)(room + WARPS * TILE), *sdelta = slse + QG * TILES * 16;
    long long b = blockIdx.x / H, h = blockIdx.x % H;
    stage<QT>(sq, {q + b * q_b + h * q_h, (int)q_m}, M);
    stage<KT>(sk, {k + b * k_b + h * k_h, (int)k_t}, T);
    stage<KT>(sv, {v + b * k_b + h * k_h, (int)k_t}, T);
    for (int i = threadIdx.x; i < QG * TILES * 16; i += THREADS)
        slse[i] = i < M ? lse[(b * H + h) * M + i] : INFINITY;  // a padded query has the probabilities exp2(-inf)
    float of_dout[8] = {}, of_dq[CHUNKS][2] = {};
    stage_dout(sdout, sdelta, {dout + b * o_b + h * o_h, (int)o_m}, {out + b * (M * H * D) + h * D, H * D}, of_dout);
    copies_done();
    __syncthreads();

    const Head head = {sq, sk, sv, sdout, slse, sdelta};
    room += threadIdx.x / 32 * TILE;
    u16 *to_k = dk + b * d_b + h * d_h, *to_v = dv + b * d_b + h * d_h, *to_q = dq + b * g_b + h * g_h;
    for (int i = threadIdx.x / 32; i < KG + QG; i += WARPS) {
        if (i < KG)
            by_keys(i, head, room, to_k, to_v, (int)d_t);
        else
            by_queries(i - KG, head, room, to_q, (int)g_m, of_dq);
    }
    if (BIASED) store_dbias(dbias + b * (3 * H * D) + h * D, parts, of_dq, of_dout);
}
