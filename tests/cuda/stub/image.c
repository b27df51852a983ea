/* image.c: target and entry functions of an ELF file with machine code (cubin), or of the text of PTX. */
#include "image.h"

#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int image_is_text(const void *image) {
    return memcmp(image, ELFMAG, SELFMAG) != 0;
}

/* The capability lies in the flags; where, changed with version 8 of the format (CUDA 13). Seen in files of NVRTC 12.9
 * and 13.5 for sm_53 to sm_110. */
int image_target(const void *image) {
    if (image_is_text(image)) {
        const char *target = strstr(image, ".target sm_");
        return target == NULL ? -1 : (int)strtol(target + strlen(".target sm_"), NULL, 10);
    }
    const Elf64_Ehdr *header = image;
    return (int)(header->e_ident[EI_ABIVERSION] < 8 ? header->e_flags & 0xff : header->e_flags >> 8 & 0xff);
}

static int text_arguments(const char *text, const char *name) {
    char entry[300];
    int count = 0;
    (void)snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *at = strstr(text, entry);
    if (at == NULL) return -1;
    const char *end = strchr(at, ')');
    while ((at = strstr(at, ".param")) != NULL && at < end) {
        count++;
        at++;
    }
    return count;
}

/* Section .nv.info.NAME is a list of attributes: format, number, and a size (format 4: that many bytes follow) or
 * value. Number 0x17 describes one argument. */
int image_arguments(const void *image, const char *name) {
    enum { SIZED = 4, ARGUMENT = 0x17 };
    if (image_is_text(image)) return text_arguments(image, name);
    const unsigned char *bytes = image;
    const Elf64_Ehdr *header = image;
    const Elf64_Shdr *sections = (const void *)(bytes + header->e_shoff);
    const char *names = (const char *)bytes + sections[header->e_shstrndx].sh_offset;
    char wanted[300];
    (void)snprintf(wanted, sizeof wanted, ".nv.info.%s", name);
    for (int i = 0; i < header->e_shnum; i++) {
        if (strcmp(names + sections[i].sh_name, wanted) != 0) continue;
        const unsigned char *at = bytes + sections[i].sh_offset, *end = at + sections[i].sh_size;
        int count = 0;
        while (at + 4 <= end) {
            count += at[1] == ARGUMENT;
            at += 4 + (at[0] == SIZED ? at[2] | at[3] << 8 : 0);
        }
        return count;
    }
    return -1;
}
