// The fused pass: an image against a slice of a reference, with exact derivatives (twin: ../compare.py).
//
// One block per image; every thread takes every 128th sample, holds the sums of all products in registers, and the sums
// are added in an order that is written down: samples of a thread one after the other, then halves of the lanes onto
// halves, then the four warps in pairs. No atomics, so scheduling changes no bit. No float64.
//
// N_EXTRA (extra parameters) and CURVED (Ewald sphere) are defined by whoever compiles this.

enum { PHASE, GAMMA, GRADIENT_X, GRADIENT_Y };

#define N_LOCAL 7
#define ROWS (2 + N_LOCAL + N_EXTRA)
#define N_SUMS (ROWS * (ROWS + 1) / 2 - 1)
// as many values as lanes halve evenly: every step hands half of them to the other half of the lanes
#define PADDED ((N_SUMS + WARP - 1) / WARP * WARP)

struct Complex {
    float r, i;
};

// F and its gradient with respect to the image frame
struct Slice {
    Complex f, x, y, z;
};

__device__ __forceinline__ Slice gather(
    const float2 *__restrict__ volume, unsigned edge, unsigned width, const float *view, float x, float y, float z) {
    const Place at = place_of(view, x, y, z, float(edge / 2));
    const float2 *__restrict__ row = volume + (at.z * edge + at.y) * width + at.x;
    const float2 *__restrict__ above = row + edge * width;
    const float2 c000 = row[0], c001 = row[1], c010 = row[width], c011 = row[width + 1];
    const float2 c100 = above[0], c101 = above[1], c110 = above[width], c111 = above[width + 1];
    Slice s;
#pragma unroll
    for (int part = 0; part < 2; part++) {
#define PART(c) (part ? c.y : c.x)
        const float d00 = PART(c001) - PART(c000), d01 = PART(c011) - PART(c010);
        const float d10 = PART(c101) - PART(c100), d11 = PART(c111) - PART(c110);
        const float e00 = PART(c000) + at.fx * d00, e01 = PART(c010) + at.fx * d01;
        const float e10 = PART(c100) + at.fx * d10, e11 = PART(c110) + at.fx * d11;
#undef PART
        const float g0 = e00 + at.fy * (e01 - e00), g1 = e10 + at.fy * (e11 - e10);
        const float value = g0 + at.fz * (g1 - g0);
        const float dx0 = d00 + at.fy * (d01 - d00), dx1 = d10 + at.fy * (d11 - d10);
        const float dx = dx0 + at.fz * (dx1 - dx0);
        const float dy = (e01 - e00) + at.fz * ((e11 - e10) - (e01 - e00));
        const float dz = g1 - g0;
        // a mirrored sample is conj F(-k): the imaginary part of its value and the real of its gradient change sign
        const float of_value = part ? at.flip : 1.0f, of_slope = at.flip * of_value;
        const float v = of_value * value;
        const float gx = of_slope * (view[0] * dx + view[1] * dy + view[2] * dz);
        const float gy = of_slope * (view[3] * dx + view[4] * dy + view[5] * dz);
        const float gz = of_slope * (view[6] * dx + view[7] * dy + view[8] * dz);
        if (part) s.f.i = v, s.x.i = gx, s.y.i = gy, s.z.i = gz;
        else s.f.r = v, s.x.r = gx, s.y.r = gy, s.z.r = gz;
    }
    return s;
}

__device__ __forceinline__ Complex times(float a, Complex b) { return Complex{a * b.r, a * b.i}; }

__device__ __forceinline__ Complex times(Complex a, Complex b) {
    return Complex{a.r * b.r - a.i * b.i, a.r * b.i + a.i * b.r};
}

// CTF applied: C F, its derivative by gamma, C Gx, C Gy, and the derivatives by rotations about x and y
struct Mixed {
    Complex f, gamma, x, y, about_x, about_y;
};

__device__ __forceinline__ Mixed flat_ctf(const Slice &s, float turns, float u, float v) {
    float sg, cg;
    sincos_turns(turns, sg, cg);
    const Complex z = times(-sg, s.z);
    return Mixed{times(-sg, s.f), times(-cg, s.f), times(-sg, s.x), times(-sg, s.y), times(-v, z), times(u, z)};
}

// The same for both sidebands: (i/2) exp(i gamma) belongs to the upper one, its conjugate to the lower one.
__device__ __forceinline__ Mixed curved_ctf(const Slice &up, const Slice &down, float turns, float u, float v, float h) {
    float sg, cg;
    sincos_turns(turns, sg, cg);
    const Complex a{-0.5f * sg, 0.5f * cg}, b{-0.5f * sg, -0.5f * cg};
    Mixed m;
    Complex p = times(a, up.f), q = times(b, down.f);
    m.f = Complex{p.r + q.r, p.i + q.i};
    m.gamma = Complex{q.i - p.i, p.r - q.r};
    p = times(a, up.x), q = times(b, down.x);
    m.x = Complex{p.r + q.r, p.i + q.i};
    // with a height of either sign: rotation about y takes -h Gx, about x +h Gy
    m.about_y = Complex{-h * (p.r - q.r), -h * (p.i - q.i)};
    p = times(a, up.y), q = times(b, down.y);
    m.y = Complex{p.r + q.r, p.i + q.i};
    m.about_x = Complex{h * (p.r - q.r), h * (p.i - q.i)};
    p = times(a, up.z), q = times(b, down.z);
    m.about_x.r -= v * (p.r + q.r), m.about_x.i -= v * (p.i + q.i);
    m.about_y.r += u * (p.r + q.r), m.about_y.i += u * (p.i + q.i);
    return m;
}

// Phase ramp and weight on all of it.
__device__ __forceinline__ void turn(Mixed &m, float weight, float turns) {
    float s, c;
    sincos_turns(turns, s, c);
    const Complex w{weight * c, weight * s};
    m.f = times(w, m.f), m.gamma = times(w, m.gamma), m.x = times(w, m.x), m.y = times(w, m.y);
    m.about_x = times(w, m.about_x), m.about_y = times(w, m.about_y);
}

// Sums over the lanes of a warp: lane l ends with the sums of values l, l + 32, ... of all lanes, in sums[0], sums[1], ...
// Halves of the lanes exchange halves of the values, so that every sum takes one addition per step.
template <int WIDTH> __device__ __forceinline__ void reduce_warp(float *sums, unsigned lane) {
    const bool is_upper = lane & WIDTH;
#pragma unroll
    for (int i = 0; i < PADDED / WARP * WIDTH; i++) {
        // of the bits of a value's index that are left, the highest says which half of the lanes keeps it
        const int low = i / WIDTH * 2 * WIDTH + i % WIDTH, high = low + WIDTH;
        const float kept = is_upper ? sums[high] : sums[low], given = is_upper ? sums[low] : sums[high];
        sums[i] = kept + __shfl_xor_sync(ALL_LANES, given, WIDTH);
    }
    if constexpr (WIDTH > 1) reduce_warp<WIDTH / 2>(sums, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS) compare(
    const float2 *__restrict__ volume,    // (edge, edge, width): the reference of one half-set
    unsigned edge, unsigned width,
    const float2 *__restrict__ images,    // (particles, tilts, samples)
    const unsigned *__restrict__ which,   // (blocks,) images to do: particle * tilts + tilt
    unsigned tilts, unsigned samples,
    const float *__restrict__ views,      // (particles, tilts, 3, 3)
    const float2 *__restrict__ shifts,    // (particles, tilts)
    const float *__restrict__ defocus,    // (particles, tilts)
    const float2 *__restrict__ astig,     // (tilts,)
    const float *__restrict__ fixed,      // (tilts, samples)
    const float *__restrict__ weight,     // (rows of weights, samples)
    const unsigned *__restrict__ weight_row,  // (particles, tilts)
    const unsigned *__restrict__ n_samples,   // (tilts,)
    const float *__restrict__ tables,     // (N_TABLES, samples)
    const unsigned *__restrict__ kinds,   // (extra,)
    const float *__restrict__ rows,       // (extra, samples)
    float *__restrict__ out)              // (particles, tilts, N_SUMS)
{
    const unsigned image = which[blockIdx.x], tilt = image % tilts;
    float view[9];
#pragma unroll
    for (int i = 0; i < 9; i++) view[i] = views[image * 9u + i];
    const float2 shift = shifts[image], a = astig[tilt];
    const float z = defocus[image];
    const float *__restrict__ own_fixed = fixed + (size_t)tilt * samples;
    const float *__restrict__ own_weight = weight + (size_t)weight_row[image] * samples;
    const float2 *__restrict__ data = images + (size_t)image * samples;
    const unsigned n = n_samples[tilt];

    float sums[PADDED];
#pragma unroll
    for (int i = 0; i < PADDED; i++) sums[i] = 0.0f;

    for (unsigned j = threadIdx.x; j < n; j += THREADS) {
        const float u = tables[KX * samples + j], v = tables[KY * samples + j];
        const float turns = gamma_turns(tables, own_fixed, samples, j, z, a.x, a.y);
#if CURVED
        const float h = tables[EWALD * samples + j];
        Mixed m = curved_ctf(
            gather(volume, edge, width, view, u, v, h), gather(volume, edge, width, view, u, v, -h), turns, u, v, h);
#else
        Mixed m = flat_ctf(gather(volume, edge, width, view, u, v, 0.0f), turns, u, v);
#endif
        const float x = tables[QX * samples + j], y = tables[QY * samples + j];
        turn(m, own_weight[j], -(x * shift.x + y * shift.y) - tables[ODD * samples + j]);

        const float2 measured = data[j];
        const float wave = TWO_PI * tables[A2 * samples + j], damping = tables[Q2_4 * samples + j];
        Complex d[ROWS];
        d[0] = Complex{measured.x, measured.y};
        d[1] = m.f;
        d[2] = Complex{TWO_PI * x * m.f.i, -TWO_PI * x * m.f.r};
        d[3] = Complex{TWO_PI * y * m.f.i, -TWO_PI * y * m.f.r};
        d[4] = m.about_x;
        d[5] = m.about_y;
        // the gradient is per grid unit of the reference, and so are the frequencies here
        d[6] = Complex{v * m.x.r - u * m.y.r, v * m.x.i - u * m.y.i};
        d[7] = times(wave, m.gamma);
        d[8] = times(damping, m.f);
#pragma unroll
        for (int e = 0; e < N_EXTRA; e++) {
            const unsigned kind = kinds[e];
            const Complex turned{TWO_PI * m.f.i, -TWO_PI * m.f.r};
            const Complex source = kind == PHASE ? turned
                : kind == GAMMA ? times(TWO_PI, m.gamma) : kind == GRADIENT_X ? m.x : m.y;
            d[9 + e] = times(rows[e * samples + j], source);
        }
        int o = 0;
#pragma unroll
        for (int p = 0; p < ROWS; p++)
#pragma unroll
            for (int q = p ? p : 1; q < ROWS; q++) {
                sums[o] += d[p].r * d[q].r + d[p].i * d[q].i;
                o++;
            }
    }

    __shared__ float of_warps[WARPS][PADDED];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    reduce_warp<WARP / 2>(sums, lane);
#pragma unroll
    for (int i = 0; i < PADDED / WARP; i++) of_warps[warp][i * WARP + lane] = sums[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < N_SUMS; i += THREADS)
        out[(size_t)image * N_SUMS + i] = (of_warps[0][i] + of_warps[1][i]) + (of_warps[2][i] + of_warps[3][i]);
}
