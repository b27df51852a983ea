/* A model as the code generator writes one: y = reverse(2 x + bias), counts of tasks, and bytes or a failure by `mode`. */
#include "edgec_model.h"

EDGEC_KERNEL fake_scale_add(const void *, const void *, const void *);
EDGEC_KERNEL fake_count(const void *);
EDGEC_KERNEL fake_reverse(const void *, const void *);
EDGEC_KERNEL fake_obey(const void *, const void *);

static int run(edgec_frame *f) {
    EDGEC_STEP(f, 0, fake_scale_add(f->inputs[0], f->params + 64, f->arena + 128));
    EDGEC_STEP(f, 1, fake_count(f->outputs[1]));
    EDGEC_STEP(f, 2, fake_reverse(f->arena + 128, f->outputs[0]));
    EDGEC_STEP(f, 3, fake_obey(f->inputs[1], f->outputs[2]));
    return EDGEC_OK;
}

static const int64_t shape_x[] = {17, 59};
static const int64_t shape_counts[] = {16};
static const int64_t shape_bytes[] = {7, 11};
static const edgec_tensor_info inputs[] = {
    {.name = "x", .dtype = EDGEC_FLOAT32, .ndim = 2, .shape = shape_x, .size_bytes = 4012},
    {.name = "mode", .dtype = EDGEC_INT32, .ndim = 0, .shape = NULL, .size_bytes = 4},
};
static const edgec_tensor_info outputs[] = {
    {.name = "y", .dtype = EDGEC_FLOAT32, .ndim = 2, .shape = shape_x, .size_bytes = 4012},
    {.name = "counts \"16\"", .dtype = EDGEC_INT32, .ndim = 1, .shape = shape_counts, .size_bytes = 64},
    {.name = "bytes", .dtype = EDGEC_UINT8, .ndim = 2, .shape = shape_bytes, .size_bytes = 77},
};
static const char *const kernel_names[] = {"fake_scale_add", "fake_count", "fake_reverse", "fake_obey"};
static const char *const cpu_features_required[] = {
#ifdef FAKE_FEATURE
    FAKE_FEATURE,
#endif
    NULL,
};

extern const edgec_model edgec_model_fake;
const edgec_model edgec_model_fake = {
    .abi_version = EDGEC_ABI_VERSION,
    .name = "fake",
    .num_inputs = 2,
    .inputs = inputs,
    .num_outputs = 3,
    .outputs = outputs,
    .arena_size_bytes = 128 + 4012,
    .params_size_bytes = 64 + 4012,
    .params_sha256 = PARAMS_SHA256,
    .num_kernels = 4,
    .kernel_names = kernel_names,
    .run = run,
    .cpu_features_required = cpu_features_required,
};

EDGEC_DEFAULT_MODEL(fake);
