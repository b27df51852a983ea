/* image.h: what the stub driver reads of a kernel's code. */
#ifndef STUB_IMAGE_H
#define STUB_IMAGE_H

int image_is_text(const void *image);
/* Compute capability that it is for (87 is 8.7), or -1. */
int image_target(const void *image);
/* Number of arguments of an entry function, or -1: it has none of that name. */
int image_arguments(const void *image, const char *name);

#endif
