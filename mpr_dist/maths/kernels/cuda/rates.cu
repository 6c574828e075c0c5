// What a card can do at most, for the floors of ``mpr-dist benchmark kernels --device gpu``.

#define CHAINS 16

// Independent chains of fused multiply-adds: threads x rounds x CHAINS of them.
extern "C" __global__ void __launch_bounds__(THREADS) multiply_add(unsigned rounds, float factor, float *__restrict__ out) {
    float chain[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) chain[i] = float(threadIdx.x + i);
    for (unsigned r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * factor + 1.0f;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += chain[i];
    out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

// Whole numbers added to cells that lie side by side, each thread to another one: threads x rounds additions.
extern "C" __global__ void __launch_bounds__(THREADS) add_whole(
    unsigned rounds, unsigned count, unsigned long long *__restrict__ cells) {
    const unsigned first = blockIdx.x * THREADS + threadIdx.x;
    for (unsigned r = 0; r < rounds; r++)
        atomicAdd(cells + (first + r * 1048573u) % count, 1ull);
}
