/* program.h: what a generated model.c for an NVIDIA GPU needs: its kernels, their code and the steps, as tables.
 *
 * On the device lie the parameters, the arena, and all inputs and then all outputs, each at a multiple of
 * EDGEC_CUDA_ALIGNMENT. A kernel's arguments are pointers into these.
 */
#ifndef EDGEC_CUDA_PROGRAM_H
#define EDGEC_CUDA_PROGRAM_H

#include "edgec_model.h"

enum { EDGEC_CUDA_ALIGNMENT = 256 };

typedef struct edgec_cuda_image {
    int architecture; /* compute capability: 87 is 8.7 */
    int is_ptx;       /* text that the driver compiles, ending in a zero; else machine code */
    const unsigned char *data;
} edgec_cuda_image;

typedef struct edgec_cuda_kernel {
    const char *symbol;
    int first_image, num_images; /* in image_numbers */
    unsigned grid[3], block[3];
    unsigned dynamic_shared_bytes;
} edgec_cuda_kernel;

typedef enum edgec_cuda_place {
    EDGEC_CUDA_INPUT,
    EDGEC_CUDA_OUTPUT,
    EDGEC_CUDA_PARAMS,
    EDGEC_CUDA_ARENA
} edgec_cuda_place;

typedef struct edgec_cuda_argument {
    edgec_cuda_place place;
    int index;     /* of the input or output; else 0 */
    size_t offset; /* in bytes, from the start of that tensor, of the parameters or of the arena */
} edgec_cuda_argument;

/* A kernel call, or a copy of its first argument to its second. */
typedef struct edgec_cuda_step {
    int kernel; /* -1: a copy */
    int first_argument, num_arguments;
    size_t copy_bytes;
} edgec_cuda_step;

typedef struct edgec_cuda_program {
    const edgec_cuda_image *images;
    int num_images;
    const int *image_numbers; /* the code of each kernel, for different architectures */
    const edgec_cuda_kernel *kernels;
    int num_kernels;
    const edgec_cuda_argument *arguments;
    int num_arguments;
    size_t params_bytes; /* of the model's parameters, those before the ones of its fallback */
    const edgec_cuda_step *steps; /* as many as the model says it has kernels */
} edgec_cuda_program;

/* A generated file embeds each image under a name of its own. */
#define EDGEC_CUDA_IMAGE extern __attribute__((visibility("hidden"))) const unsigned char

#pragma GCC visibility push(hidden)
extern const edgec_backend edgec_cuda_backend;
#pragma GCC visibility pop

#endif
