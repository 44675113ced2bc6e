// usfmae/model/short_attention.cu run by tests/helpers/cuda_emulated.h: tensors in from stdin, results out to stdout.
// Written before this: the constants of the kernels, BATCH, and the place of both files.

template <class X> std::vector<X> take(size_t count) {
    std::vector<X> all(count + 8);  // aligned enough by the allocator
    if (fread(all.data(), sizeof(X), count, stdin) != count) fprintf(stderr, "too little input\n"), exit(1);
    return all;
}
template <class X> void give(const std::vector<X>& all, size_t count) { fwrite(all.data(), sizeof(X), count, stdout); }

int main() {
    constexpr size_t N = (size_t)BATCH * H, ROWS_Q = N * M * D, ROWS_K = N * T * D;
    auto q = take<u16>(ROWS_Q), k = take<u16>(ROWS_K), v = take<u16>(ROWS_K), dout = take<u16>(ROWS_Q);
    std::vector<u16> out(ROWS_Q), dq(ROWS_Q), dk(ROWS_K), dv(ROWS_K);
    std::vector<float> lse(N * M), dbias(N * 3 * D, NAN);
    const long long q_b = M * H * D, k_b = T * H * D, next = H * D;
    for (blockIdx.x = 0; blockIdx.x < N; blockIdx.x++)
        run_block(THREADS, [&] {
            forward(q.data(), k.data(), v.data(), out.data(), lse.data(), q_b, next, D, k_b, next, D);
        });
    for (blockIdx.x = 0; blockIdx.x < N; blockIdx.x++) {
        memset(shared, 0x7e, sizeof shared);  // what was not staged is no number
        run_block(THREADS, [&] {
            backward(q.data(), k.data(), v.data(), out.data(), lse.data(), dout.data(), dq.data(), dk.data(), dv.data(),
                     dbias.data(), q_b, next, D, k_b, next, D, q_b, next, D, q_b, next, D, k_b, next, D);
        });
    }
    give(out, ROWS_Q), give(dq, ROWS_Q), give(dk, ROWS_K), give(dv, ROWS_K), give(dbias, N * 3 * D);
}
