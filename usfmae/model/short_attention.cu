// Attention over at most 256 tokens, forward and backward, on the tensor cores of an NVIDIA GPU (Ampere or later).
//
// A block of threads owns one head of one image and stages all of it in shared memory. Each warp then works alone, on
// 16 rows at a time, and keeps scores and probabilities in registers from their making to their use: nothing is
// exchanged between warps, and no warp waits for another. The backward pass computes the scores twice, once by keys
// (for dk and dv) and once by queries (for dq), because that costs less than turning them around or adding up parts
// of dq. No sum depends on the order in which warps run: the same inputs give the same bits.
//
// Written before this by whoever compiles: M queries, T keys, D numbers a head (32 or 64), H heads, WARPS, BLOCKS that
// a multiprocessor should hold in the backward pass, BIASED; F16 is 0 for bfloat16.
// Strides count numbers. Scores are taken times log2(e), for ex2. Rows beyond the last token are read as zeros.

#ifndef EMULATED
#include "short_attention_device.h"
#endif

constexpr int THREADS = 32 * WARPS, QT = (M + 15) / 16, KT = (T + 15) / 16;  // tiles of 16 queries, of 16 keys
constexpr int ROW = D + 8;                    // numbers from row to row: eight rows lie in different banks
constexpr int TILE = 16 * ROW, CHUNKS = D / 8, STEPS = D / 16;  // a chunk is 16 bytes; a step of a product 16 numbers
constexpr float LOG2E = 1.4426950408889634f;
constexpr float SCALE = D == 64 ? 0.125f : 0.17677669529663687f;  // 1 / sqrt(D)
constexpr int KEYS_AT_ONCE = 4;               // tiles of keys between two corrections of the softmax

struct alignas(8) Two { float x[2]; };
struct Rows { const u16* at; long long next; };  // the rows of a head: the first, and the way to the following

__device__ inline void stage(u16* to, Rows from, int rows, int padded) {
    for (int i = threadIdx.x; i < padded * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        bool real = row < rows;
        copy16(to + row * ROW + chunk * 8, from.at + (real ? row * from.next : 0) + chunk * 8, real);
    }
}

// Where a lane reads its part of a tile for load_matrix: [16 rows, 16 columns].
__device__ inline int lane_part() { return (threadIdx.x % 16) * ROW + (threadIdx.x % 32) / 16 * 8; }

// 16 rows of products in registers: a lane has two numbers next to one another of rows g and g + 8, in every 8 columns.
__device__ inline void store_tile(u16* to, long long next, int first, int rows, float (&x)[CHUNKS][4], float factor) {
    int g = first + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < CHUNKS; n++) {
        if (g < rows) store2(to + g * next + n * 8 + column, x[n][0] * factor, x[n][1] * factor);
        if (g + 8 < rows) store2(to + (g + 8) * next + n * 8 + column, x[n][2] * factor, x[n][3] * factor);
    }
}

// Two adjacent tiles of products as the left factor of another product.
__device__ inline void as_left(u32 (&a)[4], float (&x)[2][4]) {
    a[0] = pack(x[0][0], x[0][1]), a[1] = pack(x[0][2], x[0][3]);
    a[2] = pack(x[1][0], x[1][1]), a[3] = pack(x[1][2], x[1][3]);
}

// x += left [16, D] times the transpose of 16 rows in shared memory
__device__ inline void times_rows(float (&x)[2][4], u32 (&left)[STEPS][4], const u16* rows) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 b[4];
        load_matrix(b, rows + k * 16);
        mma(x[0], left[k], b[0], b[2]);
        mma(x[1], left[k], b[1], b[3]);
    }
}

// x [16, D] += left [16, 16] times 16 rows in shared memory
__device__ inline void times_columns(float (&x)[CHUNKS][4], u32 (&left)[4], const u16* rows) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 b[4];
        load_matrix_turned(b, rows + k * 16);
        mma(x[2 * k], left, b[0], b[1]);
        mma(x[2 * k + 1], left, b[2], b[3]);
    }
}

// --- forward ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS) forward(
    const u16* q, const u16* k, const u16* v, u16* out, float* lse,
    long long q_b, long long q_m, long long q_h, long long k_b, long long k_t, long long k_h) {
    extern __shared__ u16 shared[];
    u16 *sk = shared, *sv = sk + KT * TILE, *sq = sv + KT * TILE;
    long long b = blockIdx.x / H, h = blockIdx.x % H;
    stage(sq, {q + b * q_b + h * q_h, q_m}, M, QT * 16);
    stage(sk, {k + b * k_b + h * k_h, k_t}, T, KT * 16);
    stage(sv, {v + b * k_b + h * k_h, k_t}, T, KT * 16);
    copies_done();
    __syncthreads();

    const int lane = lane_part();
    for (int tile = threadIdx.x / 32; tile < QT; tile += WARPS) {
        u32 left[STEPS][4];
#pragma unroll
        for (int i = 0; i < STEPS; i++) load_matrix(left[i], sq + tile * TILE + i * 16 + lane);
        float mixed[CHUNKS][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
#pragma unroll
        for (int first = 0; first < KT; first += KEYS_AT_ONCE) {
            float s[KEYS_AT_ONCE][2][4] = {}, before[2] = {top[0], top[1]};
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE; i++) {
                if (first + i >= KT) continue;
                times_rows(s[i], left, sk + (first + i) * TILE + lane);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    float& x = s[i][j / 4][j % 4];
                    int key = (first + i) * 16 + j / 4 * 8 + threadIdx.x % 4 * 2 + j % 2;
                    if ((first + i + 1) * 16 > T && key >= T) x = -INFINITY;
                    top[j % 4 / 2] = max(top[j % 4 / 2], x);
                }
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                top[r] = max(top[r], swapped(top[r], 1));
                top[r] = max(top[r], swapped(top[r], 2));
                float shrink = exp2_fast((before[r] - top[r]) * (SCALE * LOG2E));
                total[r] *= shrink;
#pragma unroll
                for (int n = 0; n < CHUNKS; n++) mixed[n][2 * r] *= shrink, mixed[n][2 * r + 1] *= shrink;
            }
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE; i++) {
                if (first + i >= KT) continue;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    float& x = s[i][j / 4][j % 4];
                    x = exp2_fast(x * (SCALE * LOG2E) - top[j % 4 / 2] * (SCALE * LOG2E));
                    total[j % 4 / 2] += x;
                }
                u32 p[4];
                as_left(p, s[i]);
                times_columns(mixed, p, sv + (first + i) * TILE + lane);
            }
        }
        int row = tile * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            total[r] += swapped(total[r], 1);
            total[r] += swapped(total[r], 2);
            float part = 1.0f / total[r];
#pragma unroll
            for (int n = 0; n < CHUNKS; n++) mixed[n][2 * r] *= part, mixed[n][2 * r + 1] *= part;
            if (threadIdx.x % 4 == 0 && row + 8 * r < M)
                lse[(b * H + h) * M + row + 8 * r] = top[r] * (SCALE * LOG2E) + log2f(total[r]);
        }
        store_tile(out + b * (M * H * D) + h * D, H * D, tile * 16, M, mixed, 1.0f);
    }
}

// --- backward --------------------------------------------------------------------------------------------------------

// dk and dv of 16 keys: all queries pass by. The scores stand with keys going down.
__device__ inline void by_keys(
    int tile, const u16* sq, const u16* sk, const u16* sv, const u16* sdout, const float* slse, const float* sdelta,
    u16* dk, u16* dv, long long next) {
    const int lane = lane_part(), column = threadIdx.x % 4 * 2;
    u32 key[STEPS][4], value[STEPS][4];
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        load_matrix(key[i], sk + tile * TILE + i * 16 + lane);
        load_matrix(value[i], sv + tile * TILE + i * 16 + lane);
    }
    float to_k[CHUNKS][4] = {}, to_v[CHUNKS][4] = {};
#pragma unroll 1
    for (int i = 0; i < QT; i++) {
        float p[2][4] = {}, ds[2][4] = {};
        times_rows(p, key, sq + i * TILE + lane);
        times_rows(ds, value, sdout + i * TILE + lane);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const Two lse = *(const Two*)(slse + i * 16 + n * 8 + column);
            const Two delta = *(const Two*)(sdelta + i * 16 + n * 8 + column);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                p[n][j] = exp2_fast(p[n][j] * (SCALE * LOG2E) - lse.x[j % 2]);
                ds[n][j] = p[n][j] * (ds[n][j] - delta.x[j % 2]);
            }
        }
        u32 left[4];
        as_left(left, p);
        times_columns(to_v, left, sdout + i * TILE + lane);
        as_left(left, ds);
        times_columns(to_k, left, sq + i * TILE + lane);
    }
    store_tile(dk, next, tile * 16, T, to_k, SCALE);
    store_tile(dv, next, tile * 16, T, to_v, 1.0f);
}

// dq of 16 queries: all keys pass by. Adds the columns of dq to `down`, as a lane has them.
__device__ inline void by_queries(
    int tile, const u16* sq, const u16* sk, const u16* sv, const u16* sdout, const float* slse, const float* sdelta,
    u16* dq, long long next, float (&down)[CHUNKS][2]) {
    const int lane = lane_part(), row = tile * 16 + threadIdx.x % 32 / 4;
    u32 query[STEPS][4], dout[STEPS][4];
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        load_matrix(query[i], sq + tile * TILE + i * 16 + lane);
        load_matrix(dout[i], sdout + tile * TILE + i * 16 + lane);
    }
    const float lse[2] = {slse[row], slse[row + 8]}, delta[2] = {sdelta[row], sdelta[row + 8]};
    float to_q[CHUNKS][4] = {};
#pragma unroll 1
    for (int i = 0; i < KT; i++) {
        float p[2][4] = {}, ds[2][4] = {};
        times_rows(p, query, sk + i * TILE + lane);
        times_rows(ds, dout, sv + i * TILE + lane);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float &a = p[j / 4][j % 4], &d = ds[j / 4][j % 4];
            d = exp2_fast(a * (SCALE * LOG2E) - lse[j % 4 / 2]) * (d - delta[j % 4 / 2]);
        }
        if (T % 16 && i == KT - 1)  // a padded key scores 0, whose exp2 overflows where all real scores are far below
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (i * 16 + j / 4 * 8 + threadIdx.x % 4 * 2 + j % 2 >= T) ds[j / 4][j % 4] = 0.0f;
        u32 left[4];
        as_left(left, ds);
        times_columns(to_q, left, sk + i * TILE + lane);
    }
    store_tile(dq, next, tile * 16, M, to_q, SCALE);
#pragma unroll
    for (int n = 0; n < CHUNKS; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) down[n][c] += to_q[n][c] + to_q[n][c + 2];
}

// Stage dout; the sums of out * dout along each row; returns this thread's part of the columns of dout.
__device__ inline void stage_dout(u16* to, float* delta, Rows dout, Rows out, float (&down)[8]) {
    for (int i = threadIdx.x; i < QT * 16 * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        Eight a = {}, b = {};
        if (row < M) {
            a = load8(dout.at + row * dout.next + chunk * 8);
            b = load8(out.at + row * out.next + chunk * 8);
        }
        store8(to + row * ROW + chunk * 8, a);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float x = number(a, j);
            sum += x * number(b, j);
            if (BIASED) down[j] += x;
        }
#pragma unroll
        for (int way = 1; way < CHUNKS; way *= 2) sum += swapped(sum, way);
        if (chunk == 0) delta[row] = sum;
    }
}

// Gradients of the biases that queries and values contain, of this image: dbias [3, H, D]. That of values is the sum
// of dout, since the probabilities of a query add up to one; that of keys is zero, since a softmax does not see a
// shift of all its scores.
__device__ inline void store_dbias(float* dbias, float* parts, float (&dq)[CHUNKS][2], float (&dv)[8]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
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
    u16 *sk = shared, *sv = sk + KT * TILE, *sq = sv + KT * TILE, *sdout = sq + QT * TILE;
    float *slse = (float*)(sdout + QT * TILE), *sdelta = slse + QT * 16, *parts = sdelta + QT * 16;
    long long b = blockIdx.x / H, h = blockIdx.x % H;
    stage(sq, {q + b * q_b + h * q_h, q_m}, M, QT * 16);
    stage(sk, {k + b * k_b + h * k_h, k_t}, T, KT * 16);
    stage(sv, {v + b * k_b + h * k_h, k_t}, T, KT * 16);
    for (int i = threadIdx.x; i < QT * 16; i += THREADS)
        slse[i] = i < M ? lse[(b * H + h) * M + i] : INFINITY;  // a padded query has the probabilities exp2(-inf)
    float of_dout[8] = {}, of_dq[CHUNKS][2] = {};
    stage_dout(sdout, sdelta, {dout + b * o_b + h * o_h, o_m}, {out + b * (M * H * D) + h * D, H * D}, of_dout);
    copies_done();
    __syncthreads();

    u16 *to_k = dk + b * d_b + h * d_h, *to_v = dv + b * d_b + h * d_h, *to_q = dq + b * g_b + h * g_h;
    for (int i = threadIdx.x / 32; i < KT + QT; i += WARPS) {
        if (i < KT)
            by_keys(i, sq, sk, sv, sdout, slse, sdelta, to_k, to_v, d_t);
        else
            by_queries(i - KT, sq, sk, sv, sdout, slse, sdelta, to_q, g_m, of_dq);
    }
    if (BIASED) store_dbias(dbias + b * (3 * H * D) + h * D, parts, of_dq, of_dout);
}
