// What the kernels share. The specification of every one of them is its numba twin (../compare.py, ../insert.py, and
// imaging/extract.py): names, tables and units are explained there.
//
// float32 throughout; indices are unsigned, so that they cost no test for negative ones. Arrays that are only read are
// const __restrict__: they come through the read-only path.

#define THREADS 128
#define WARP 32
#define WARPS (THREADS / WARP)
#define ALL_LANES 0xffffffffu
#define TWO_PI 6.283185307179586f

// rows of the tables over samples
enum { QX, QY, KX, KY, A2, COS2, SIN2, Q2_4, ODD, EWALD, OVERLAP, N_TABLES };

// sin and cos of 2 pi t; Taylor polynomials on a quarter turn, error below 1e-7
__device__ __forceinline__ void sincos_turns(float t, float &s, float &c) {
    const float k = rintf(2.0f * t);
    const float x = (t - 0.5f * k) * TWO_PI;
    const float sign = (int(k) & 1) ? -1.0f : 1.0f;
    const float y = x * x;
    s = 1.0f / 362880 + y * (-1.0f / 39916800);
    s = 1.0f + y * (-1.0f / 6 + y * (1.0f / 120 + y * (-1.0f / 5040 + y * s)));
    s *= sign * x;
    c = -1.0f / 3628800 + y * (1.0f / 479001600);
    c = 1.0f + y * (-1.0f / 2 + y * (1.0f / 24 + y * (-1.0f / 720 + y * (1.0f / 40320 + y * c))));
    c *= sign;
}

// Where a sample lies in a grid that holds kx >= 0: the cell, the place inside it, and whether it was mirrored.
struct Place {
    unsigned x, y, z;
    float fx, fy, fz, flip;
};

// rows of the view are the image axes in the frame of the grid: k = A^T (x, y, z)
__device__ __forceinline__ Place place_of(const float *view, float x, float y, float z, float half) {
    float kx = view[0] * x + view[3] * y + view[6] * z;
    float ky = view[1] * x + view[4] * y + view[7] * z;
    float kz = view[2] * x + view[5] * y + view[8] * z;
    Place at;
    at.flip = kx < 0.0f ? -1.0f : 1.0f;
    kx *= at.flip;
    ky = ky * at.flip + half;
    kz = kz * at.flip + half;
    at.x = unsigned(kx), at.y = unsigned(ky), at.z = unsigned(kz);
    at.fx = kx - float(at.x), at.fy = ky - float(at.y), at.fz = kz - float(at.z);
    return at;
}

// turns of gamma of one sample: defocus and astigmatism (A), and what does not depend on them
__device__ __forceinline__ float gamma_turns(
    const float *__restrict__ tables, const float *__restrict__ fixed, unsigned samples, unsigned j, float defocus,
    float astig_cos, float astig_sin) {
    const float z = defocus + astig_cos * tables[COS2 * samples + j] + astig_sin * tables[SIN2 * samples + j];
    return tables[A2 * samples + j] * z + fixed[j];
}
