/* cpu.c: refuse a CPU that lacks an instruction the model was compiled for.
 *
 * Without this check the process would end with SIGILL somewhere inside a kernel. Names on x86 are LLVM's, elsewhere
 * those of the Linux hwcaps (/proc/cpuinfo).
 */
#include <stdio.h>
#include <string.h>

#include "internal.h"

#if defined(__x86_64__)

#include <cpuid.h>

enum { EBX, ECX, EDX };
/* State components the operating system must save: AVX needs XMM and YMM, AVX-512 opmask and both halves of ZMM too. */
enum { XCR0_SSE = 0x2, XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6 };

/* Source: Intel SDM volume 2, CPUID. */
static const struct feature {
    const char *name;
    uint32_t leaf, subleaf;
    int reg, bit;
    uint32_t xcr0;
} features[] = {
    {"sse3", 1, 0, ECX, 0, 0},
    {"ssse3", 1, 0, ECX, 9, 0},
    {"sse4.1", 1, 0, ECX, 19, 0},
    {"sse4.2", 1, 0, ECX, 20, 0},
    {"cx16", 1, 0, ECX, 13, 0},
    {"popcnt", 1, 0, ECX, 23, 0},
    {"lzcnt", 0x80000001, 0, ECX, 5, 0},
    {"movbe", 1, 0, ECX, 22, 0},
    {"bmi", 7, 0, EBX, 3, 0},
    {"bmi2", 7, 0, EBX, 8, 0},
    {"avx", 1, 0, ECX, 28, XCR0_AVX},
    {"f16c", 1, 0, ECX, 29, XCR0_AVX},
    {"fma", 1, 0, ECX, 12, XCR0_AVX},
    {"avx2", 7, 0, EBX, 5, XCR0_AVX},
    {"avxvnni", 7, 1, -1, 4, XCR0_AVX},
    {"avx512f", 7, 0, EBX, 16, XCR0_AVX512},
    {"avx512dq", 7, 0, EBX, 17, XCR0_AVX512},
    {"avx512cd", 7, 0, EBX, 28, XCR0_AVX512},
    {"avx512bw", 7, 0, EBX, 30, XCR0_AVX512},
    {"avx512vl", 7, 0, EBX, 31, XCR0_AVX512},
    {"avx512ifma", 7, 0, EBX, 21, XCR0_AVX512},
    {"avx512vbmi", 7, 0, ECX, 1, XCR0_AVX512},
    {"avx512vnni", 7, 0, ECX, 11, XCR0_AVX512},
    {"avx512fp16", 7, 0, EDX, 23, XCR0_AVX512},
    {"avx512bf16", 7, 1, -1, 5, XCR0_AVX512},
};
#define NUM_FEATURES (sizeof features / sizeof features[0])

static uint32_t enabled_state(void) {
    unsigned int eax, ebx, ecx, edx, low, high;
    const unsigned int osxsave = 1u << 27;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & osxsave)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has_feature(const struct feature *feature) {
    unsigned int eax, ebx, ecx, edx;
    if (!__get_cpuid_count(feature->leaf, feature->subleaf, &eax, &ebx, &ecx, &edx)) return 0;
    const uint32_t value = feature->reg == EBX ? ebx : feature->reg == ECX ? ecx : feature->reg == EDX ? edx : eax;
    if (!(value >> feature->bit & 1u)) return 0;
    return feature->xcr0 == 0 || (enabled_state() & feature->xcr0) == feature->xcr0;
}

#elif defined(__linux__)

#include <sys/auxv.h>

/* Source: arch/ARCH/include/uapi/asm/hwcap.h of Linux 6.6. Numbers rather than HWCAP_ names: the headers of an old
 * distribution lack the new ones. */
static const struct feature {
    const char *name;
    unsigned long vector;
    int bit;
} features[] = {
#if defined(__aarch64__)
    {"fp", AT_HWCAP, 0},         {"asimd", AT_HWCAP, 1},     {"aes", AT_HWCAP, 3},        {"pmull", AT_HWCAP, 4},
    {"sha1", AT_HWCAP, 5},       {"sha2", AT_HWCAP, 6},      {"crc32", AT_HWCAP, 7},      {"atomics", AT_HWCAP, 8},
    {"fphp", AT_HWCAP, 9},       {"asimdhp", AT_HWCAP, 10},  {"asimdrdm", AT_HWCAP, 12},  {"asimddp", AT_HWCAP, 20},
    {"sve", AT_HWCAP, 22},       {"asimdfhm", AT_HWCAP, 23}, {"sve2", AT_HWCAP2, 1},      {"svei8mm", AT_HWCAP2, 9},
    {"svebf16", AT_HWCAP2, 12},  {"i8mm", AT_HWCAP2, 13},    {"bf16", AT_HWCAP2, 14},
#elif defined(__riscv)
    {"m", AT_HWCAP, 'm' - 'a'},  {"a", AT_HWCAP, 'a' - 'a'}, {"f", AT_HWCAP, 'f' - 'a'},  {"d", AT_HWCAP, 'd' - 'a'},
    {"c", AT_HWCAP, 'c' - 'a'},  {"v", AT_HWCAP, 'v' - 'a'},
#elif defined(__loongarch__)
    {"fpu", AT_HWCAP, 3},        {"lsx", AT_HWCAP, 4},       {"lasx", AT_HWCAP, 5},
#else
    {"none", 0, 0},
#endif
};
#define NUM_FEATURES (sizeof features / sizeof features[0])

static int has_feature(const struct feature *feature) {
    return getauxval(feature->vector) >> feature->bit & 1;
}

#endif

static const struct feature *find_feature(const char *name) {
    for (size_t i = 0; i < NUM_FEATURES; i++) {
        if (strcmp(features[i].name, name) == 0) return &features[i];
    }
    return NULL;
}

edgec_status edgec_cpu_check(const edgec_model *model) {
    const char *const *name = model->cpu_features_required;
    for (; name != NULL && *name != NULL; name++) {
        const struct feature *feature = find_feature(*name);
        if (feature == NULL) {
            return edgec_fail(EDGEC_ERROR_UNSUPPORTED_CPU,
                              "model '%s' requires CPU feature '%s', which this runtime does not know on this "
                              "architecture; compile the model again for this device",
                              model->name, *name);
        }
        if (!has_feature(feature)) {
            return edgec_fail(EDGEC_ERROR_UNSUPPORTED_CPU,
                              "model '%s' requires CPU feature '%s', which this CPU or its operating system lacks; "
                              "compile the model for an older target",
                              model->name, *name);
        }
    }
    return EDGEC_OK;
}
