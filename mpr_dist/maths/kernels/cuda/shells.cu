// Sums over rings of samples and over shells of a grid (twins: imaging/extract.py, imaging/reconstruct.py, and shell_sums
// of maths/fourier.py). Every sum is one thread's, in the order of the twin: no atomics, the same bits from the same
// numbers. float64 on purpose: sums of many images, of many cells.

// One block. Means over the rings of samples, which lie ring after ring, smoothed over a window that grows with the ring.
extern "C" __global__ void __launch_bounds__(THREADS) ring_means(
    const double *__restrict__ power,     // (samples,) summed over images
    const unsigned *__restrict__ ends,    // (rings,) samples with ring <= r
    unsigned rings, unsigned images, double least,
    double *total,                        // (rings,) scratch
    double *__restrict__ means)           // (rings,) at least ``least``; NaN stays NaN
{
    for (unsigned r = threadIdx.x; r < rings; r += THREADS) {
        double sum = 0.0;
        for (unsigned j = r ? ends[r - 1] : 0; j < ends[r]; j++) sum += power[j];
        total[r] = sum;
    }
    __syncthreads();
    for (unsigned r = threadIdx.x; r < rings; r += THREADS) {
        const unsigned width = 1 + r / 16;
        const unsigned high = r + width < rings - 1 ? r + width : rings - 1;
        unsigned low = r > width ? r - width : 1;
        low = low < high ? low : high;
        double sum = 0.0;
        for (unsigned i = low; i <= high; i++) sum += total[i];
        const double count = double(ends[high] - (low ? ends[low - 1] : 0)) * images;
        const double mean = sum / (count > 1.0 ? count : 1.0);
        means[r] = mean < least ? least : mean;
    }
}

// Of a row of cells 0, 1, .. from its middle, first to last lie in a shell; false if none do. rest: the square of the
// row's distance. Squares of distances are whole numbers: from above (shell - 1/2)^2 to below (shell + 1/2)^2.
__device__ __forceinline__ bool in_shell(int shell, int rest, unsigned &first, unsigned &last) {
    const int beyond = shell * shell + shell - rest, before = (shell ? shell * shell - shell : -1) - rest;
    if (beyond < 0) return false;
    first = before < 0 ? 0 : unsigned(sqrt(double(before))) + 1;
    last = unsigned(sqrt(double(beyond)));
    return true;
}

// One thread per shell of a plane: blockIdx.y = plane. Cells with the same rounded distance stand side by side in a row.
extern "C" __global__ void __launch_bounds__(THREADS) shell_sums(
    const double *__restrict__ values,    // (edge, edge, width), distances from (edge/2, edge/2, 0)
    unsigned edge, unsigned width, unsigned shells,
    double *__restrict__ out)             // (edge, shells, 2): sum, number of cells
{
    const unsigned shell = blockIdx.x * THREADS + threadIdx.x;
    if (shell >= shells) return;
    const int centre = int(edge / 2), z = int(blockIdx.y) - centre;
    double sum = 0.0;
    unsigned count = 0, first, last;
    for (unsigned iy = 0; iy < edge; iy++) {
        const int y = int(iy) - centre;
        if (!in_shell(int(shell), z * z + y * y, first, last)) continue;
        const double *__restrict__ row = values + ((size_t)blockIdx.y * edge + iy) * width;
        for (unsigned ix = first; ix <= last && ix < width; ix++) sum += row[ix], count++;
    }
    double *__restrict__ to = out + 2 * ((size_t)blockIdx.y * shells + shell);
    to[0] = sum, to[1] = count;
}

// The same of two transforms in the layout of rfftn: what they have in common, and the power of each. Where the mate of a
// coefficient is not stored it counts twice.
extern "C" __global__ void __launch_bounds__(THREADS) correlate_shells(
    const float2 *__restrict__ a,         // (n, n, n/2 + 1)
    const float2 *__restrict__ b,
    unsigned n,
    double *__restrict__ out)             // (n, n/2 + 1, 3): Re(a conj b), |a|^2, |b|^2
{
    const unsigned shell = blockIdx.x * THREADS + threadIdx.x, width = n / 2 + 1;
    if (shell >= width) return;
    const int edge = int(n), iz = int(blockIdx.y), z = 2 * iz < edge ? iz : iz - edge;
    double cross = 0.0, of_a = 0.0, of_b = 0.0;
    unsigned first, last;
    for (int iy = 0; iy < edge; iy++) {
        const int y = 2 * iy < edge ? iy : iy - edge;
        if (!in_shell(int(shell), z * z + y * y, first, last)) continue;
        const size_t row = ((size_t)blockIdx.y * n + iy) * width;
        for (unsigned x = first; x <= last && x < width; x++) {
            const float2 p = a[row + x], q = b[row + x];
            const double times = x == 0 || 2 * x == n ? 1.0 : 2.0;
            cross += times * (p.x * q.x + p.y * q.y);
            of_a += times * (p.x * p.x + p.y * p.y);
            of_b += times * (q.x * q.x + q.y * q.y);
        }
    }
    double *__restrict__ to = out + 3 * ((size_t)blockIdx.y * width + shell);
    to[0] = cross, to[1] = of_a, to[2] = of_b;
}
