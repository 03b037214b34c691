/* foreign.h - what the API's tests use of POSIX, on Windows and on lwIP: included before everything else (-include), with
 * this folder first among the include folders, whose netinet/in.h, poll.h and so on come here. Tests that need more are
 * left out by name, in windows.sh and lwip.sh. */
#ifndef FOREIGN_H
#define FOREIGN_H

#define CHECK_PLAIN
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* No processes: the tests that call these are left out. */
#define fork() (-1)
static __attribute__((unused)) int foreign_wait(int *status)
{
    if (status) *status = 1;
    return -1;
}
#define wait(status) foreign_wait(status)
#define waitpid(pid, status, flags) foreign_wait(status)
#define kill(pid, sig) (-1)
#define RLIMIT_NOFILE 7
struct foreign_limit { unsigned long rlim_cur, rlim_max; };
#define rlimit foreign_limit
#define getrlimit(what, limit) ((limit)->rlim_cur = (limit)->rlim_max = 1024, 0)
#define setrlimit(what, limit) ((void)(limit), -1)
struct foreign_usage { struct { long tv_sec, tv_usec; } ru_utime, ru_stime; };
#define rusage foreign_usage
#define RUSAGE_SELF 0
#define getrusage(who, usage) (memset(usage, 0, sizeof *(usage)), 0)
#define WIFEXITED(status) 0
#define WEXITSTATUS(status) 1

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#define SOCK_NONBLOCK 0
#define nfds_t ULONG
#define foreign_sleep(ms) Sleep((DWORD)(ms))
#define foreign_poll(fds, n, ms) WSAPoll(fds, n, ms)
#define read(fd, p, n) recv((SOCKET)(fd), (char *)(p), (int)(n), 0)
#define write(fd, p, n) send((SOCKET)(fd), (const char *)(p), (int)(n), 0)
#define close(fd) closesocket((SOCKET)(fd))
#define setsockopt(fd, level, name, p, n) setsockopt((SOCKET)(fd), level, name, (const char *)(p), (int)(n))
#define mkdtemp(dir) ((void)(dir), (char *)NULL)

/* Raw sockets are used before the first one of psocket's. */
__attribute__((constructor)) static void foreign_start(void)
{
    WSADATA data;
    WSAStartup(MAKEWORD(2, 2), &data);
}
#else
#define iovec iovec /* that of <fcntl.h> */
#include "lwip/sockets.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"
#define SOCK_NONBLOCK 0
#define foreign_sleep(ms) sys_msleep((u32_t)(ms))
#undef poll
#if LWIP_SOCKET_POLL
#define foreign_poll(fds, n, ms) lwip_poll(fds, n, ms)
#else
#define foreign_poll(fds, n, ms) ((void)(fds), -1)
#endif

static sys_sem_t foreign_up;
static void foreign_is_up(void *unused)
{
    (void)unused;
    sys_sem_signal(&foreign_up);
}
__attribute__((constructor)) static void foreign_start(void)
{
    sys_sem_new(&foreign_up, 0);
    tcpip_init(foreign_is_up, NULL);
    sys_arch_sem_wait(&foreign_up, 0);
}
#endif

#define poll(fds, n, ms) ((n) ? foreign_poll(fds, n, ms) : (foreign_sleep(ms), 0))

/* A pipe of sockets: the tests watch its end as a foreign descriptor. */
static __attribute__((unused)) int foreign_pipe(int fds[2])
{
    struct sockaddr_in sa;
    socklen_t n = sizeof sa;
    int l = (int)socket(AF_INET, SOCK_STREAM, 0);
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(0x7f000001);
    if (bind(l, (struct sockaddr *)&sa, n) || listen(l, 1) || getsockname(l, (struct sockaddr *)&sa, &n)) return -1;
    fds[1] = (int)socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fds[1], (struct sockaddr *)&sa, n)) return -1;
    fds[0] = (int)accept(l, NULL, NULL);
    close(l);
    return fds[0] < 0 ? -1 : 0;
}
#define pipe(fds) foreign_pipe(fds)
#endif
