// Boxes around particles, and the samples of their transforms (twin: imaging/extract.py). The transform stands between.

// One block per row of a box: blockIdx.x = particle * n + row. Zero outside the image.
extern "C" __global__ void __launch_bounds__(THREADS) cut(
    const float *__restrict__ image,      // (height, width)
    unsigned height, unsigned width,
    const int *__restrict__ corner,       // (particles, 2): x, y of the first pixel
    unsigned n,
    float *__restrict__ boxes)            // (particles, n, n)
{
    const unsigned p = blockIdx.x / n, row = blockIdx.x % n;
    const int x = corner[2 * p], y = corner[2 * p + 1] + int(row);
    float *__restrict__ to = boxes + (size_t)blockIdx.x * n;
    const float *__restrict__ from = image + (size_t)(unsigned)y * width;
    for (unsigned i = threadIdx.x; i < n; i += THREADS) {
        // unsigned: what lies before the first pixel wraps to beyond the last
        const unsigned column = unsigned(x + int(i));
        to[i] = unsigned(y) < height && column < width ? from[column] : 0.0f;
    }
}

// Samples of every transform, their phases referred to the particle: blockIdx.y = particle.
//
// The particle lies at n/2 + rest, |rest| <= 1/2: the first part is a sign, so that phases are small and exact.
extern "C" __global__ void __launch_bounds__(THREADS) pack(
    const float2 *__restrict__ transforms,  // (particles, n, n/2 + 1), not normalised
    unsigned n, unsigned samples,
    const int *__restrict__ kx, const int *__restrict__ ky,  // (samples,) Fourier pixels, kx >= 0
    const float2 *__restrict__ rest,      // (particles,) px
    float2 *__restrict__ out)             // (particles, samples)
{
    const unsigned j = blockIdx.x * THREADS + threadIdx.x, p = blockIdx.y;
    if (j >= samples) return;
    const int x = kx[j], y = ky[j];
    const unsigned row = y < 0 ? unsigned(y + int(n)) : unsigned(y);
    const float2 value = transforms[((size_t)p * n + row) * (n / 2 + 1) + unsigned(x)];
    const float2 r = rest[p];
    float s, c;
    sincos_turns((r.x * float(x) + r.y * float(y)) / float(n), s, c);
    const float gain = ((x + y) & 1 ? -1.0f : 1.0f) / float(n);
    c *= gain, s *= gain;
    out[(size_t)p * samples + j] = make_float2(c * value.x - s * value.y, c * value.y + s * value.x);
}
