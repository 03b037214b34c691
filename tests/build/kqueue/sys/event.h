/* sys/event.h - as much of kqueue(2) as psocket.h uses, made of epoll, so that its kqueue poller runs on Linux. As on the
 * BSDs, a filter stands for itself (a descriptor ready for both is told twice), adding it again changes nothing, closing
 * the descriptor deletes it, and deleting one that is not there fails. As on macOS, there is no SOCK_NONBLOCK. */
#ifndef KQUEUE_ON_EPOLL_H
#define KQUEUE_ON_EPOLL_H
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#undef SOCK_NONBLOCK

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_EOF 0x8000

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned fflags;
    intptr_t data;
    void *udata;
};

#define EV_SET(kev, a, b, c, d, e, f) do { \
    struct kevent *kev_ = (kev); \
    kev_->ident = (a); \
    kev_->filter = (b); \
    kev_->flags = (c); \
    kev_->fflags = (d); \
    kev_->data = (e); \
    kev_->udata = (f); \
} while (0)

static __attribute__((unused)) int issetugid(void) { return getauxval(AT_SECURE) != 0; }

#define KQ_FDS 1024
static struct {
    void *udata[2];
    int on; /* 1 reading, 2 writing */
} kq_notes[KQ_FDS][KQ_FDS]; /* by the numbers of kqueue and descriptor */

static int kqueue(void)
{
    int kq = epoll_create1(0);
    if (kq >= 0 && kq < KQ_FDS) memset(kq_notes[kq], 0, sizeof kq_notes[kq]);
    return kq;
}

static int kq_set(int kq, int fd, int op, int on)
{
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = (on & 1 ? EPOLLIN | EPOLLRDHUP : 0u) | (on & 2 ? EPOLLOUT : 0u);
    e.data.fd = fd;
    return epoll_ctl(kq, op, fd, &e);
}

static int kq_change(int kq, const struct kevent *c)
{
    int fd = (int)c->ident, bit = c->filter == EVFILT_READ ? 1 : 2, *on = &kq_notes[kq][fd].on, want;
    if (*on && kq_set(kq, fd, EPOLL_CTL_MOD, *on)) *on = 0; /* it was closed meanwhile */
    if ((c->flags & EV_DELETE) && !(*on & bit)) {
        errno = ENOENT;
        return -1;
    }
    want = c->flags & EV_DELETE ? *on & ~bit : *on | bit;
    if (kq_set(kq, fd, !want ? EPOLL_CTL_DEL : *on ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, want)) return -1;
    *on = want;
    kq_notes[kq][fd].udata[bit - 1] = c->udata;
    return 0;
}

static int kevent(int kq, const struct kevent *changes, int change_count, struct kevent *events, int cap, const struct timespec *t)
{
    static const unsigned told_by[2] = { EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR, EPOLLOUT | EPOLLHUP | EPOLLERR };
    static int turn;
    struct epoll_event e[64];
    int i, k, n, count = 0, half = (cap + 1) / 2;
    if (kq < 0 || kq >= KQ_FDS) return errno = EBADF, -1;
    for (i = 0; i < change_count; i++) {
        if (changes[i].ident >= KQ_FDS) return errno = EBADF, -1;
        if (kq_change(kq, &changes[i])) return -1;
    }
    if (!cap) return 0;
    n = epoll_wait(kq, e, half < 64 ? half : 64, t ? (int)(t->tv_sec * 1000 + (t->tv_nsec + 999999) / 1000000) : -1);
    if (n < 0) return -1;
    for (i = 0, turn++; i < n; i++) {
        for (k = 0; k < 2 && count < cap; k++) {
            int which = (k + turn) % 2, fd = e[i].data.fd;
            if (!(kq_notes[kq][fd].on >> which & 1) || !(e[i].events & told_by[which])) continue;
            EV_SET(&events[count], (uintptr_t)fd, (short)(which ? EVFILT_WRITE : EVFILT_READ),
                   (unsigned short)(e[i].events & (EPOLLRDHUP | EPOLLHUP) ? EV_EOF : 0), 0, 0, kq_notes[kq][fd].udata[which]);
            count++;
        }
    }
    return count;
}
#endif
