// Insertion of slices into fixed-point accumulators (twin: ../insert.py). CURVED is defined by whoever compiles this.
//
// One block per image. Contributions are whole numbers, added by atomics: integer addition is associative, so the order
// in which blocks run changes no bit. The product of a value with its trilinear weight is one of float32 (the twin's is
// one of float64): on most cards float64 runs at a 64th of the speed, and the values themselves are float32.
//
// A warp works out 32 samples, one in each lane, and hands them over through shared memory; then eight lanes at a time
// take one sample, and six of them add the six numbers that lie side by side in memory: real, imaginary and weight of two
// neighbouring cells. What one lane would add by itself lies in as many sectors as there are lanes.
//
// A card that cannot hold the accumulators takes them slab by slab: cells with z in [first, first + count) are there.

enum { RE, IM, WEIGHT, FX, FY, FZ, N_PARTS };
#define LANES_PER_SAMPLE 8
#define NOWHERE 0xfffffffeu  // a plane that is in no slab, nor is the next one

struct Handed {
    float parts[N_PARTS][WARP + 1];  // one more: lanes that read different parts of a sample use different banks
    unsigned plane[WARP], line[WARP];
};

__device__ __forceinline__ void hand_over(
    Handed &to, unsigned lane, const Place &at, unsigned width, unsigned first, float re, float im, float weight) {
    to.parts[RE][lane] = re, to.parts[IM][lane] = im * at.flip, to.parts[WEIGHT][lane] = weight;
    to.parts[FX][lane] = at.fx, to.parts[FY][lane] = at.fy, to.parts[FZ][lane] = at.fz;
    // unsigned: below the slab wraps to beyond it
    to.plane[lane] = at.z - first;
    to.line[lane] = at.y * width + at.x;
}

__device__ __forceinline__ void add_handed(
    const Handed &from, unsigned lane, unsigned long long *__restrict__ sums, unsigned edge, unsigned width,
    unsigned count) {
    const unsigned part = lane % LANES_PER_SAMPLE, kind = part % 3, dx = part / 3;
    if (part >= 6) return;
    for (unsigned i = lane / LANES_PER_SAMPLE; i < WARP; i += WARP / LANES_PER_SAMPLE) {
        const float value = from.parts[kind][i], fx = from.parts[FX][i], fy = from.parts[FY][i], fz = from.parts[FZ][i];
        const float along = dx ? fx : 1.0f - fx;
        const unsigned plane = from.plane[i], line = from.line[i];
#pragma unroll
        for (unsigned dz = 0; dz < 2; dz++) {
            if (plane + dz >= count) continue;
            const float high = dz ? fz : 1.0f - fz;
#pragma unroll
            for (unsigned dy = 0; dy < 2; dy++) {
                const float c = high * (dy ? fy : 1.0f - fy) * along;
                const size_t cell = ((size_t)(plane + dz) * edge + dy) * width + line;
                // two's complement: unsigned addition is signed addition
                atomicAdd(sums + 3 * cell + part, (unsigned long long)__float2ll_rn(value * c));
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

    __shared__ Handed handed[WARPS];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    // all lanes of a warp go round equally often: they hand samples to each other
    for (unsigned start = warp * WARP; start < n; start += THREADS) {
        const unsigned j = start + lane;
        const bool is_there = j < n;
        float s = 0.0f, c = 0.0f, so = 0.0f, co = 0.0f, w = 0.0f, re = 0.0f, im = 0.0f, u = 0.0f, v = 0.0f;
        if (is_there) {
            sincos_turns(gamma_turns(tables, own_fixed, samples, j, z, a.x, a.y), s, c);
            sincos_turns(tables[ODD * samples + j], so, co);
            const float2 x = data[j];
            w = own_weight[j], re = co * x.x - so * x.y, im = co * x.y + so * x.x;
            u = tables[KX * samples + j], v = tables[KY * samples + j];
        }
#if CURVED
        float h = 0.0f, shared = 0.0f;
        if (is_there) h = tables[EWALD * samples + j], shared = tables[OVERLAP * samples + j];
        const float of_data = w * w * (0.25f * (1.0f - shared) + 0.5f * shared * s * s) * scale;
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const float sign = side ? -1.0f : 1.0f;
            const float ar = -0.5f * s * w, ai = -0.5f * sign * c * w, height = sign * h;
            const float vr = (ar * re - ai * im) * scale, vi = (ar * im + ai * re) * scale;
#else
        const float transfer = -s * w, height = 0.0f;
        const float vr = transfer * re * scale, vi = transfer * im * scale, of_data = transfer * transfer * scale;
        {
#endif
            most = larger(larger(larger(most, vr), vi), of_data);
            const Place at = place_of(view, u, v, height, float(edge / 2));
            hand_over(handed[warp], lane, at, width, first, vr, vi, of_data);
            if (!is_there) handed[warp].plane[lane] = NOWHERE;
            __syncwarp();
            add_handed(handed[warp], lane, sums, edge, width, count);
            __syncwarp();
        }
    }

    __shared__ float of_warps[WARPS];
#pragma unroll
    for (int width_ = WARP / 2; width_ > 0; width_ /= 2)
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, width_));
    if (lane == 0) of_warps[warp] = most;
    __syncthreads();
    if (threadIdx.x == 0)
        largest[image] = fmaxf(fmaxf(of_warps[0], of_warps[1]), fmaxf(of_warps[2], of_warps[3]));
}
