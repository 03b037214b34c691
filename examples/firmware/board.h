/* board.h - what main.c needs of a board. Another board means another board.c. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

#define APP_STACK_WORDS 4096

void board_start(void);                    /* before the scheduler: timers, the serial port */
void board_network(void);                  /* in a task: starts lwIP and the Ethernet, waits until they are up */
int board_random(void *p, size_t n);       /* n bytes from the hardware's random generator: 0, or -1 */
int64_t board_time(void);                  /* seconds since 1970, from the real-time clock */
uint32_t board_timer(void);                /* counts at 25 MHz */
void board_exit(int status);               /* a real board would reset */

#endif
