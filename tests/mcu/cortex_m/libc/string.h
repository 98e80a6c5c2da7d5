/* What CMSIS-NN's headers want of a C library; startup.c has the two. */
#ifndef STRING_H
#define STRING_H
#include <stddef.h>
void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);
#endif
