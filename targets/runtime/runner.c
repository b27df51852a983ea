/* runner.c: a compiled model as an executable, for parity checks, benchmarks and profiles on any board. */
#define _POSIX_C_SOURCE 200809L
#include "runner.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

int runner_error(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)fputs("edgec-runner: error: ", stderr);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
    va_end(arguments);
    return code;
}

int runner_status(edgec_status status) {
    const int is_users = status == EDGEC_ERROR_INVALID_ARGUMENT || status == EDGEC_ERROR_PARAMS;
    return runner_error(is_users ? EXIT_INPUT : EXIT_DEVICE, "%s", edgec_last_error());
}

uint64_t runner_now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int runner_open(const edgec_model *model, const runner_options *options, int verify_params, edgec_session **session) {
    const edgec_options settings = {
        .struct_size = sizeof settings,
        .threads = options->threads,
        .cpus = options->num_cpus > 0 ? options->cpus : NULL,
        .num_cpus = options->num_cpus,
        .pin_caller = 1,
        .verify_params = verify_params,
        .params_path = options->params,
    };
    const edgec_status status = edgec_create(model, &settings, session);
    if (status != EDGEC_OK) return runner_status(status);
    if (edgec_session_model(*session) != model) {
        (void)fprintf(stderr, "edgec-runner: note: the CPU runs it: %s\n", edgec_last_error());
    }
    return EXIT_DONE;
}

void runner_json_string(const char *text) {
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') putchar('\\');
        if (*c < 0x20) {
            printf("\\u%04x", *c);
        } else {
            putchar(*c);
        }
    }
    putchar('"');
}

static const char *dtype_name(edgec_dtype dtype) {
    static const struct {
        edgec_dtype dtype;
        const char *name;
    } names[] = {
        {EDGEC_FLOAT32, "float32"}, {EDGEC_UINT8, "uint8"},     {EDGEC_INT8, "int8"},     {EDGEC_UINT16, "uint16"},
        {EDGEC_INT16, "int16"},     {EDGEC_INT32, "int32"},     {EDGEC_INT64, "int64"},   {EDGEC_BOOL, "bool"},
        {EDGEC_FLOAT16, "float16"}, {EDGEC_FLOAT64, "float64"}, {EDGEC_UINT32, "uint32"}, {EDGEC_UINT64, "uint64"},
        {EDGEC_BFLOAT16, "bfloat16"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].dtype == dtype) return names[i].name;
    }
    return "unknown";
}

static void print_tensors(const char *key, int count, const edgec_tensor_info *tensors) {
    printf(", \"%s\": [", key);
    for (int i = 0; i < count; i++) {
        printf("%s{\"name\": ", i > 0 ? ", " : "");
        runner_json_string(tensors[i].name);
        printf(", \"dtype\": \"%s\", \"shape\": [", dtype_name(tensors[i].dtype));
        for (int axis = 0; axis < tensors[i].ndim; axis++) {
            printf("%s%lld", axis > 0 ? ", " : "", (long long)tensors[i].shape[axis]);
        }
        printf("], \"size_bytes\": %zu}", tensors[i].size_bytes);
    }
    putchar(']');
}

int runner_info(const edgec_model *model, const runner_options *options) {
    (void)options;
    printf("{\"model\": ");
    runner_json_string(model->name);
    printf(", \"abi_version\": %u, \"runner_version\": \"%s\"", model->abi_version, RUNNER_VERSION);
    print_tensors("inputs", model->num_inputs, model->inputs);
    print_tensors("outputs", model->num_outputs, model->outputs);
    printf(", \"arena_size_bytes\": %zu, \"params_size_bytes\": %zu, \"params_sha256\": ", model->arena_size_bytes,
           model->params_size_bytes);
    runner_json_string(model->params_sha256 != NULL ? model->params_sha256 : "");
    printf(", \"kernels\": [");
    for (int i = 0; i < model->num_kernels; i++) {
        if (i > 0) printf(", ");
        runner_json_string(model->kernel_names[i]);
    }
    printf("], \"cpu_features_required\": [");
    const char *const *name = model->cpu_features_required;
    for (int i = 0; name != NULL && name[i] != NULL; i++) {
        if (i > 0) printf(", ");
        runner_json_string(name[i]);
    }
    puts("]}");
    return EXIT_DONE;
}

static int execute(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*execute)(const edgec_model *, const runner_options *);
    } commands[] = {{"info", runner_info}, {"run", runner_run}, {"bench", runner_bench}, {"profile", runner_profile}};

    if (argc < 2) return runner_error(EXIT_USAGE, "no command given\n%s", runner_usage);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) break;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            (void)fputs(runner_usage, stdout);
            return EXIT_DONE;
        }
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("edgec-runner %s (ABI %d), model %s\n", RUNNER_VERSION, EDGEC_ABI_VERSION, edgec_model_default()->name);
        return EXIT_DONE;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        runner_options options;
        const int code = runner_parse(&options, argc - 1, argv + 1);
        return code == EXIT_DONE ? commands[i].execute(edgec_model_default(), &options) : code;
    }
    return runner_error(EXIT_USAGE, "unknown command '%s'; there are info, run, bench and profile", argv[1]);
}

int main(int argc, char **argv) {
    /* A reader that goes away is reported as a failed write rather than by killing this process. */
    (void)signal(SIGPIPE, SIG_IGN);
    const int code = execute(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_DONE) {
        return runner_error(EXIT_INPUT, "cannot write to stdout: %s", strerror(errno));
    }
    return code;
}
