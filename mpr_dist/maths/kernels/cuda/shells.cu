// Sums over rings of samples and over shells of a grid (twins: imaging/extract.py, imaging/reconstruct.py). Every sum is
// one thread's, in the order of the twin: no atomics, the same bits. float64 on purpose: sums of many images.

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

// One thread per shell of a plane: blockIdx.y = plane. Cells with the same rounded distance stand side by side in a row.
extern "C" __global__ void __launch_bounds__(THREADS) shell_sums(
    const double *__restrict__ values,    // (edge, edge, width), distances from (edge/2, edge/2, 0)
    unsigned edge, unsigned width, unsigned shells,
    double *__restrict__ out)             // (edge, shells, 2): sum, number of cells
{
    const unsigned shell = blockIdx.x * THREADS + threadIdx.x;
    if (shell >= shells) return;
    const int centre = int(edge / 2), s = int(shell), z = int(blockIdx.y) - centre;
    double sum = 0.0;
    unsigned count = 0;
    for (unsigned iy = 0; iy < edge; iy++) {
        const int y = int(iy) - centre;
        // squares of distances are whole numbers: from above (s - 1/2)^2 to below (s + 1/2)^2
        const int beyond = s * s + s - z * z - y * y, before = (s ? s * s - s : -1) - z * z - y * y;
        if (beyond < 0) continue;
        const unsigned first = before < 0 ? 0 : unsigned(sqrt(double(before))) + 1;
        const unsigned last = unsigned(sqrt(double(beyond)));
        const double *__restrict__ row = values + ((size_t)blockIdx.y * edge + iy) * width;
        for (unsigned ix = first; ix <= last && ix < width; ix++) sum += row[ix], count++;
    }
    double *__restrict__ to = out + 2 * ((size_t)blockIdx.y * shells + shell);
    to[0] = sum, to[1] = count;
}
