/* embedded_params.c: put the parameters into the program, for a runner that is one file.
 *
 *     cc -c embedded_params.c '-DEDGEC_PARAMS_FILE="/absolute/model.params"' -DEDGEC_PARAMS_SHA256=9f86d081...
 *
 * Give the object file itself to the linker: from an archive it would not be taken, as nothing refers to it strongly.
 * The hash is not used: it makes the command differ when the content does, since compiler caches (zig cc has one that
 * cannot be turned off) do not see the file behind .incbin.
 */
#if !defined(EDGEC_PARAMS_FILE) || !defined(EDGEC_PARAMS_SHA256)
#error "define EDGEC_PARAMS_FILE (a string literal) and EDGEC_PARAMS_SHA256"
#endif

__asm__(".pushsection .rodata.edgec_params, \"a\"\n"
        ".balign 64\n"
        ".globl edgec_embedded_params\n"
        ".hidden edgec_embedded_params\n"
        "edgec_embedded_params:\n"
        ".incbin \"" EDGEC_PARAMS_FILE "\"\n"
        ".globl edgec_embedded_params_end\n"
        ".hidden edgec_embedded_params_end\n"
        "edgec_embedded_params_end:\n"
        ".byte 0\n"
        ".popsection\n");

/* ISO C wants a translation unit to declare something. */
extern const unsigned char edgec_embedded_params[];
