// Insertion of slices into fixed-point accumulators (twin: ../insert.py). CURVED is defined by whoever compiles this.
//
// One block per image. Contributions are whole numbers, added by atomics: integer addition is associative, so the order
// in which blocks run changes no bit. The product of a value with its trilinear weight is one of float32 (the twin's is
// one of float64): on most cards float64 runs at a 64th of the speed, and the values themselves are float32.
//
// A card that cannot hold the accumulators takes them slab by slab: cells with z in [first, first + count) are there.

__device__ __forceinline__ void add(unsigned long long *cell, float value) {
    // two's complement: unsigned addition is signed addition
    atomicAdd(cell, (unsigned long long)__float2ll_rn(value));
}

__device__ __forceinline__ void insert_sample(
    unsigned long long *__restrict__ sums, unsigned edge, unsigned width, unsigned first, unsigned count,
    const float *view, float x, float y, float z, float re, float im, float w) {
    const Place at = place_of(view, x, y, z, float(edge / 2));
    im *= at.flip;
#pragma unroll
    for (int dz = 0; dz < 2; dz++) {
        // unsigned: below the slab wraps to beyond it
        const unsigned plane = at.z + dz - first;
        if (plane >= count) continue;
        const float wz = dz ? at.fz : 1.0f - at.fz;
#pragma unroll
        for (int dy = 0; dy < 2; dy++) {
            const float wzy = wz * (dy ? at.fy : 1.0f - at.fy);
            unsigned long long *cell = sums + 3 * ((size_t)(plane * edge + at.y + dy) * width + at.x);
#pragma unroll
            for (int dx = 0; dx < 2; dx++) {
                const float c = wzy * (dx ? at.fx : 1.0f - at.fx);
                add(cell + 3 * dx, re * c);
                add(cell + 3 * dx + 1, im * c);
                add(cell + 3 * dx + 2, w * c);
            }
        }
    }
}

// the larger of both; not a number counts as infinite, which fmaxf would lose
__device__ __forceinline__ float larger(float largest, float value) {
    return value == value ? fmaxf(largest, fabsf(value)) : __int_as_float(0x7f800000);
}

extern "C" __global__ void __launch_bounds__(THREADS) insert(
    unsigned long long *__restrict__ sums,  // (count, edge, width, 3): planes of one half-set, real, imaginary, weight
    unsigned edge, unsigned width, unsigned first, unsigned count,
    const float2 *__restrict__ images,    // (particles, tilts, samples)
    const unsigned *__restrict__ which,   // (blocks,) images to do: particle * tilts + tilt
    unsigned tilts, unsigned samples,
    const float *__restrict__ views,      // (particles, tilts, 3, 3)
    const float *__restrict__ defocus,    // (particles, tilts)
    const float2 *__restrict__ astig,     // (tilts,)
    const float *__restrict__ fixed,      // (tilts, samples)
    const float *__restrict__ weight,     // (rows of weights, samples)
    const unsigned *__restrict__ weight_row,  // (particles, tilts)
    const unsigned *__restrict__ n_samples,   // (tilts,)
    const float *__restrict__ tables,     // (N_TABLES, samples)
    float scale,                          // 2^k: multiplication by it is exact
    float *__restrict__ largest)          // (particles, tilts) contribution in units of the fixed point
{
    const unsigned image = which[blockIdx.x], tilt = image % tilts;
    float view[9];
#pragma unroll
    for (int i = 0; i < 9; i++) view[i] = views[image * 9u + i];
    const float2 a = astig[tilt];
    const float z = defocus[image];
    const float *__restrict__ own_fixed = fixed + (size_t)tilt * samples;
    const float *__restrict__ own_weight = weight + (size_t)weight_row[image] * samples;
    const float2 *__restrict__ data = images + (size_t)image * samples;
    const unsigned n = n_samples[tilt];
    float most = 0.0f;

    for (unsigned j = threadIdx.x; j < n; j += THREADS) {
        float s, c, so, co;
        sincos_turns(gamma_turns(tables, own_fixed, samples, j, z, a.x, a.y), s, c);
        sincos_turns(tables[ODD * samples + j], so, co);
        const float2 x = data[j];
        const float w = own_weight[j], re = co * x.x - so * x.y, im = co * x.y + so * x.x;
        const float u = tables[KX * samples + j], v = tables[KY * samples + j];
#if CURVED
        const float h = tables[EWALD * samples + j], shared = tables[OVERLAP * samples + j];
        const float of_data = w * w * (0.25f * (1.0f - shared) + 0.5f * shared * s * s) * scale;
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const float sign = side ? -1.0f : 1.0f;
            const float ar = -0.5f * s * w, ai = -0.5f * sign * c * w;
            const float vr = (ar * re - ai * im) * scale, vi = (ar * im + ai * re) * scale;
            most = larger(larger(larger(most, vr), vi), of_data);
            insert_sample(sums, edge, width, first, count, view, u, v, sign * h, vr, vi, of_data);
        }
#else
        const float transfer = -s * w;
        const float vr = transfer * re * scale, vi = transfer * im * scale, of_data = transfer * transfer * scale;
        most = larger(larger(larger(most, vr), vi), of_data);
        insert_sample(sums, edge, width, first, count, view, u, v, 0.0f, vr, vi, of_data);
#endif
    }

    __shared__ float of_warps[WARPS];
#pragma unroll
    for (int width_ = WARP / 2; width_ > 0; width_ /= 2)
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, width_));
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = most;
    __syncthreads();
    if (threadIdx.x == 0)
        largest[image] = fmaxf(fmaxf(of_warps[0], of_warps[1]), fmaxf(of_warps[2], of_warps[3]));
}
