/* What lwIP asks of the compiler and the C library. */
#ifndef ARCH_CC_H
#define ARCH_CC_H

#include <stdint.h>
#include <sys/time.h>
int board_random(void *p, size_t n);
static inline uint32_t board_rand32(void)
{
    uint32_t r = 0;
    board_random(&r, sizeof r);
    return r;
}
#define LWIP_RAND() board_rand32()
#define LWIP_TIMEVAL_PRIVATE 0
#define LWIP_ERRNO_STDINCLUDE 1

#endif
