/* emulated_kernels.c: what the kernels of test_launcher.py would compute: y = a x + b and y = a + b, of 35 floats. */
#include <stddef.h>

enum { COUNT = 35 };

typedef const char *emulated_kernel(const unsigned *grid, const unsigned *block, unsigned shared_bytes, void **arguments);

__attribute__((visibility("default"))) emulated_kernel affine_emulated, add_emulated;

static const float *input(void **arguments, int index) {
    return *(const float **)arguments[index];
}

/* As many elements as there are threads: too small a grid leaves some out. */
static unsigned elements(const unsigned *grid, const unsigned *block) {
    const unsigned threads = grid[0] * grid[1] * grid[2] * block[0] * block[1] * block[2];
    return threads < COUNT ? threads : COUNT;
}

const char *affine_emulated(const unsigned *grid, const unsigned *block, unsigned shared_bytes, void **arguments) {
    const float *a = input(arguments, 0), *x = input(arguments, 1), *b = input(arguments, 2);
    float *y = *(float **)arguments[3];
    if (shared_bytes != 65536) return "not the shared memory that was planned";
    for (unsigned i = 0; i < elements(grid, block); i++) y[i] = a[i] * x[i] + b[i];
    return NULL;
}

const char *add_emulated(const unsigned *grid, const unsigned *block, unsigned shared_bytes, void **arguments) {
    const float *a = input(arguments, 0), *b = input(arguments, 1);
    float *y = *(float **)arguments[2];
    (void)shared_bytes;
    for (unsigned i = 0; i < elements(grid, block); i++) y[i] = a[i] + b[i];
    return NULL;
}
