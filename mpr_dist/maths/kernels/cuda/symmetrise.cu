// Sum over rotated copies of a half-map's sums, trilinear (twin: imaging/reconstruct.py). One thread per cell, which
// reads wherever the copies lie and writes its own place. float64 on purpose: sums of a whole data set.

extern "C" __global__ void __launch_bounds__(THREADS) symmetrise(
    const double *__restrict__ sums,      // (edge, edge, width, 3)
    unsigned edge, unsigned width,
    const double *__restrict__ matrices, unsigned copies,  // (copies, 3, 3)
    double *__restrict__ out)             // (edge, edge, width, 3)
{
    const unsigned ix = blockIdx.x * THREADS + threadIdx.x, iy = blockIdx.y, iz = blockIdx.z;
    if (ix >= width) return;
    const int centre = int(edge / 2);
    const double z = int(iz) - centre, y = int(iy) - centre, x = ix;
    double re = 0.0, im = 0.0, weight = 0.0;
    if (x * x + y * y + z * z <= (centre - 1.0) * (centre - 1.0))
        for (unsigned m = 0; m < copies; m++) {
            const double *__restrict__ a = matrices + 9 * m;
            double kx = a[0] * x + a[1] * y + a[2] * z;
            double ky = a[3] * x + a[4] * y + a[5] * z;
            double kz = a[6] * x + a[7] * y + a[8] * z;
            const double sign = kx < 0 ? -1.0 : 1.0;
            kx *= sign, ky *= sign, kz *= sign;
            const int jx = int(kx), jy = int(floor(ky)) + centre, jz = int(floor(kz)) + centre;
            const double fx = kx - jx, fy = ky + centre - jy, fz = kz + centre - jz;
            for (int corner = 0; corner < 8; corner++) {
                const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
                const double w = (dx ? fx : 1 - fx) * (dy ? fy : 1 - fy) * (dz ? fz : 1 - fz);
                if (w > 0) {
                    const double *__restrict__ v = sums + 3 * (((size_t)(jz + dz) * edge + jy + dy) * width + jx + dx);
                    re += w * v[0], im += w * sign * v[1], weight += w * v[2];
                }
            }
        }
    double *__restrict__ to = out + 3 * (((size_t)iz * edge + iy) * width + ix);
    to[0] = re, to[1] = im, to[2] = weight;
}
