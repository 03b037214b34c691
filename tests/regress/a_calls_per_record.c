/* Reads of 16 KB TLS records swung between 16 KB and 32 KB and cost two system calls each. */
#include "a.h"
#include <dlfcn.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static int counted = -1, calls;

/* In front of the C library's, whichever of them the library uses. */
#define COUNT(fd) ((void)((fd) == counted && calls++))
ssize_t recv(int fd, void *p, size_t n, int flags)
{
    static ssize_t (*real)(int, void *, size_t, int);
    if (!real) *(void **)(&real) = dlsym(RTLD_NEXT, "recv");
    COUNT(fd);
    return real(fd, p, n, flags);
}
ssize_t recvfrom(int fd, void *p, size_t n, int flags, __SOCKADDR_ARG a, socklen_t *size)
{
    static ssize_t (*real)(int, void *, size_t, int, __SOCKADDR_ARG, socklen_t *);
    if (!real) *(void **)(&real) = dlsym(RTLD_NEXT, "recvfrom");
    COUNT(fd);
    return real(fd, p, n, flags, a, size);
}
ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    static ssize_t (*real)(int, struct msghdr *, int);
    if (!real) *(void **)(&real) = dlsym(RTLD_NEXT, "recvmsg");
    COUNT(fd);
    return real(fd, m, flags);
}
ssize_t readv(int fd, const struct iovec *v, int n)
{
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) *(void **)(&real) = dlsym(RTLD_NEXT, "readv");
    COUNT(fd);
    return real(fd, v, n);
}

/* Each record is there whole before it is asked for. */
static void one_at_a_time(size_t size, int poller)
{
    enum { RECORDS = 200 };
    static char block[16384];
    psocket *c = NULL, *s = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int i, big = 1 << 20;
    REQUIRE(a_tls(&c, &s, 1));
    setsockopt((int)psocket_getfd(s), SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
    if (poller) REQUIRE(psocket_poller_new(&p) == 0 && psocket_poller_set(p, s, PSOCKET_READ, -1, s) == 0);
    calls = 0;
    counted = (int)psocket_getfd(s);
    for (i = 0; i < RECORDS; i++) {
        size_t got = 0;
        int64_t end = check_now_ms() + 1000;
        REQUIRE(psocket_send(c, block, size) == (ptrdiff_t)size);
        REQUIRE(psocket_flush(c) == 0);
        for (;;) { /* all of the record lies in the system's buffer */
            int have = 0;
            struct pollfd f;
            f.fd = counted;
            f.events = POLLIN;
            poll(&f, 1, 100);
            if (ioctl(counted, FIONREAD, &have) || have >= (int)size || check_now_ms() > end) break;
        }
        while (got < size && check_now_ms() < end) {
            const void *data;
            ptrdiff_t n;
            if (poller) CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
            n = psocket_recv(s, &data);
            if (n > 0) got += (size_t)n;
        }
        CHECK_INT(got, size);
    }
    counted = -1;
    if (calls > RECORDS + RECORDS / 10)
        check_fail(__FILE__, __LINE__, "%d calls for %d records of %d bytes, poller %d", calls, RECORDS, (int)size, poller);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

TEST(one_call_for_a_record)
{
    one_at_a_time(16384, 0);
    one_at_a_time(16384, 1);
    one_at_a_time(16000, 1);
    one_at_a_time(5000, 1);
    one_at_a_time(100, 1);
}

/* Many records wait: a call takes several. */
TEST(few_calls_for_many_records)
{
    static char block[262144];
    psocket *c = NULL, *s = NULL;
    size_t sent = 0, got = 0;
    int big = 4 << 20, have = 0;
    int64_t end = check_now_ms() + 3000;
    REQUIRE(a_tls(&c, &s, 1));
    setsockopt((int)psocket_getfd(s), SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
    setsockopt((int)psocket_getfd(c), SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
    while (sent < sizeof block && check_now_ms() < end) {
        ptrdiff_t n = psocket_send(c, block, sizeof block - sent);
        if (n > 0) sent += (size_t)n;
        psocket_flush(c);
    }
    REQUIRE(psocket_flush(c) == 0);
    while (have < (int)sent && check_now_ms() < end) ioctl((int)psocket_getfd(s), FIONREAD, &have);
    calls = 0;
    counted = (int)psocket_getfd(s);
    while (got < sent && check_now_ms() < end) {
        const void *data;
        ptrdiff_t n = psocket_recv(s, &data);
        if (n > 0) got += (size_t)n;
    }
    counted = -1;
    CHECK_INT(got, sent);
    if (calls > 14) check_fail(__FILE__, __LINE__, "%d calls for 16 records of 16 KB that were there", calls);
    psocket_free(c);
    psocket_free(s);
}
