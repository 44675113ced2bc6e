// What short_attention.cu asks of a GPU, in PTX. tests/model/short_attention_emulated.h has the same for a CPU.

typedef unsigned short u16;  // the bits of a bfloat16 or float16
typedef unsigned int u32;    // two of them, the first in the lower half
#define INFINITY __int_as_float(0x7f800000)

struct alignas(16) Eight { u32 x[4]; };

#if F16
#define KIND "f16"
#else
#define KIND "bf16"
#endif

__device__ inline u32 pack(float low, float high) {
    u32 r;
    asm("cvt.rn." KIND "x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ inline float number(const Eight& eight, int i) {
    u16 bits = (u16)(eight.x[i / 2] >> (i % 2 * 16));
#if F16
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits));
    return r;
#else
    return __uint_as_float((u32)bits << 16);
#endif
}

__device__ inline float exp2_fast(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

__device__ inline float swapped(float x, int way) { return __shfl_xor_sync(0xffffffff, x, way); }

__device__ inline void store2(u16* to, float low, float high) { *(u32*)to = pack(low, high); }
__device__ inline Eight load8(const u16* from) {
    const uint4 x = *(const uint4*)from;
    return {{x.x, x.y, x.z, x.w}};
}
__device__ inline void store8_shared(u16* to, const Eight& x) {
    *(uint4*)to = make_uint4(x.x[0], x.x[1], x.x[2], x.x[3]);
}
// Said in PTX, since the compiler else makes four stores of it.
__device__ inline void store8_global(u16* to, const Eight& x) {
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(x.x[0]), "r"(x.x[1]), "r"(x.x[2]), "r"(x.x[3])
                 : "memory");
}

__device__ inline bool anywhere(bool x) { return __any_sync(0xffffffff, x); }  // in the warp
__device__ inline void warp_done() { __syncwarp(); }  // what its lanes wrote to shared memory, all of them see

__device__ inline u32 in_shared(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// 16 bytes to shared memory, zeros where the source is not real; they are there after copies_done and a barrier.
__device__ inline void copy16(u16* to, const u16* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(in_shared(to)), "l"(from), "r"(real ? 16 : 0));
}
__device__ inline void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four 8 x 8 matrices: left above, left below, right above, right below of a tile of 16 x 16.
__device__ inline void load_matrix(u32 (&r)[4], const u16* at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(in_shared(at)));
}
__device__ inline void load_matrix_turned(u32 (&r)[4], const u16* at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(in_shared(at)));
}

// d [16, 8] = c + a [16, 16] times b [16, 8]
__device__ inline void mma(float (&d)[4], const float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// c += a times b
__device__ inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
