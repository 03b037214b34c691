/* Every public function in every state that a socket can be in, blocking and not, with usual and silly arguments: no crash, no
 * hang, the contract's answer, and psocket_geterror that says the same. One table of states and one of calls generate it;
 * pairs and triples of calls are drawn with a fixed seed. Internal invariants are checked after every call (PSOCKET_CHECK).
 */
#define PSOCKET_CHECK "tests/invariants.h"
#define PSOCKET_IMPLEMENTATION
#include "../../psocket.h"
#include "../regress/a.h"
#include "../link.h"

enum { LIMIT_MS = 12, SLOW_MS = 900 }; /* of a blocking call; what no call may take (heavily loaded machines, sanitizers) */

/* --- scenes ----------------------------------------------------------------------------------------------------- */

typedef struct scene {
    psocket *s;       /* the one in question */
    psocket *peer;    /* its other end, or what else is to be freed */
    psocket *more;    /* a listener */
    psocket_resolve *question;
    psocket_poller *poller;
    int fd;           /* a bare descriptor; -1 none */
    int quiet;        /* calls of a sequence: judge agreement and time alone */
} scene;

static psocket_tls *client_tls, *server_tls;
static psocket *full_listener, *full_clients[8];
static int full_port;

/* A queue that is full: further connects get no answer. */
static int full_queue(void)
{
    psocket_options o = net_options(1);
    int i;
    if (full_listener) return full_port;
    o.backlog = 1;
    CHECK_INT(psocket_listen(&full_listener, "127.0.0.1", 0, &o), 0);
    psocket_getlocal(full_listener, NULL, 0, &full_port);
    for (i = 0; i < 8; i++) {
        CHECK_INT(psocket_connect(&full_clients[i], "127.0.0.1", full_port, &o), 0);
        psocket_wait(full_clients[i], PSOCKET_WRITE, 5);
    }
    return full_port;
}

static void setup(void)
{
    client_tls = core_settings(0);
    server_tls = core_settings(1);
}

static void teardown(void)
{
    int i;
    psocket_tls_free(client_tls);
    psocket_tls_free(server_tls);
    for (i = 0; full_listener && i < 8; i++) psocket_free(full_clients[i]);
    psocket_free(full_listener);
    full_listener = NULL;
    psocket_cleanup();
}

static void shake(psocket *c, psocket *s)
{
    int a = psocket_starttls(c, client_tls, "localhost"), b = psocket_starttls(s, server_tls, NULL), turns;
    for (turns = 0; turns < 3000 && (a || b); turns++) {
        if (a == PSOCKET_WANT_READ || a == PSOCKET_WANT_WRITE) a = psocket_step(c);
        if (b == PSOCKET_WANT_READ || b == PSOCKET_WANT_WRITE) b = psocket_step(s);
    }
    CHECK_INT(a, 0);
    CHECK_INT(b, 0);
}

static void open_tcp(scene *x)
{
    CHECK(a_tcp(&x->s, &x->peer, 1));
}

static void open_tls(scene *x)
{
    open_tcp(x);
    shake(x->s, x->peer);
}

static void open_tls_server(scene *x)
{
    open_tcp(x);
    shake(x->s, x->peer);
    { psocket *t = x->s; x->s = x->peer; x->peer = t; }
}

static void with_data(scene *x)
{
    CHECK_INT(psocket_send(x->peer, "hello", 5), 5);
    CHECK_INT(psocket_flush(x->peer), 0);
    CHECK(psocket_wait(x->s, PSOCKET_READ, 1000) > 0);
}

static void data_tcp(scene *x) { open_tcp(x); with_data(x); }
static void data_tls(scene *x) { open_tls(x); with_data(x); }
static void put_back(scene *x) { open_tcp(x); CHECK_INT(psocket_unrecv(x->s, "hello", 5), 0); }

static void looked_up(scene *x, int udp)
{
    psocket_options o = net_options(1);
    o.udp = udp;
    o.resolve = a_resolve_later;
    o.resolve_user = &x->question;
    CHECK_INT(psocket_connect(&x->s, "later.test", 80, &o), 0);
}

static void resolving(scene *x) { looked_up(x, 0); }
static void resolving_udp(scene *x) { looked_up(x, 1); }

static void not_found(scene *x)
{
    looked_up(x, 0);
    psocket_resolve_done(x->question, PSOCKET_DNS_NOT_FOUND);
    x->question = NULL;
    CHECK_INT(psocket_step(x->s), PSOCKET_DNS_NOT_FOUND);
}

static void connecting(scene *x)
{
    psocket_options o = net_options(1);
    CHECK_INT(psocket_connect(&x->s, "127.0.0.1", full_queue(), &o), 0);
}

static void twice(void *user, psocket_resolve *r, const char *host)
{
    (void)user, (void)host;
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_add(r, "127.0.0.2");
    psocket_resolve_done(r, 0);
}

static void racing(scene *x)
{
    psocket_options o = net_options(1);
    o.resolve = twice;
    o.attempt_delay_ms = 20;
    CHECK_INT(psocket_connect(&x->s, "race.test", full_queue(), &o), 0);
    psocket_step(x->s);
}

static void refused(scene *x)
{
    psocket_options o = net_options(1);
    psocket *l;
    int port, i;
    l = net_listen("127.0.0.1", &port);
    psocket_free(l);
    if (psocket_connect(&x->s, "127.0.0.1", port, &o)) return;
    for (i = 0; i < 100 && psocket_step(x->s) == PSOCKET_WANT_WRITE; i++) psocket_wait(x->s, PSOCKET_WRITE, 10);
}

static void half_hello(scene *x, int server)
{
    int r;
    open_tcp(x);
    if (server) { psocket *t = x->s; x->s = x->peer; x->peer = t; }
    r = psocket_starttls(x->s, server ? server_tls : client_tls, server ? NULL : "localhost");
    CHECK(r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE);
}

static void greeting_client(scene *x) { half_hello(x, 0); }
static void greeting_server(scene *x) { half_hello(x, 1); }

static void halfway_client(scene *x)
{
    half_hello(x, 0);
    psocket_starttls(x->peer, server_tls, NULL);
    psocket_wait(x->peer, PSOCKET_WRITE, 20);
    psocket_step(x->peer);
}

static void not_tls(scene *x)
{
    int i;
    half_hello(x, 0);
    CHECK_INT(psocket_send(x->peer, "HTTP/1.0 400 Bad Request\r\n\r\n", 28), 28);
    for (i = 0; i < 100 && psocket_step(x->s) >= PSOCKET_WANT_WRITE; i++) psocket_wait(x->s, PSOCKET_READ, 10);
}

static void shut_here(scene *x) { open_tcp(x); CHECK_INT(psocket_shutdown(x->s), 0); }
static void shut_here_tls(scene *x) { open_tls(x); CHECK_INT(psocket_shutdown(x->s), 0); }
static void shut_there(scene *x) { open_tcp(x); CHECK_INT(psocket_shutdown(x->peer), 0); a_arrived(x->s); }
static void shut_there_data(scene *x) { data_tcp(x); CHECK_INT(psocket_shutdown(x->peer), 0); a_arrived(x->s); }
static void shut_both(scene *x) { shut_there(x); CHECK_INT(psocket_shutdown(x->s), 0); }
static void close_notify(scene *x) { open_tls(x); CHECK_INT(psocket_shutdown(x->peer), 0); a_arrived(x->s); }
static void truncated(scene *x) { open_tls(x); shutdown((int)psocket_getfd(x->peer), SHUT_WR); a_arrived(x->s); }

static void gone(scene *x)
{
    open_tcp(x);
    psocket_free(x->peer);
    x->peer = NULL;
    a_arrived(x->s);
}

static void reset(scene *x, int data)
{
    x->s = net_raw_peer(&x->fd);
    psocket_setnonblocking(x->s, 1);
    if (data) CHECK(send(x->fd, "hello", 5, 0) == 5);
    if (data) a_arrived(x->s);
    net_reset(x->fd);
    x->fd = -1;
    check_sleep_us(2000);
}

static void was_reset(scene *x) { reset(x, 0); }
static void was_reset_data(scene *x) { reset(x, 1); }

static void bad_record(scene *x)
{
    open_tls(x);
    CHECK(send((int)psocket_getfd(x->peer), "\x17\x03\x03\x00\x20" "this is no genuine record.......", 37, MSG_NOSIGNAL) == 37);
    a_arrived(x->s);
}

static void closed_here(scene *x) { open_tcp(x); psocket_close(x->s); }
static void closed_here_data(scene *x) { data_tcp(x); psocket_close(x->s); }
static void closed_here_tls(scene *x) { open_tls(x); psocket_close(x->s); }
static void closed_resolving(scene *x) { looked_up(x, 0); psocket_close(x->s); }

static void fill(scene *x)
{
    int small = 4096;
    setsockopt((int)psocket_getfd(x->s), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    setsockopt((int)psocket_getfd(x->peer), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    core_fill(x->s);
}

static void full(scene *x) { open_tcp(x); fill(x); }
static void full_tls(scene *x) { open_tls(x); fill(x); }

static void datagrams(scene *x, int server)
{
    psocket_options o = net_options(1);
    int port = 0, mine = 0;
    o.udp = 1;
    CHECK_INT(psocket_listen(&x->peer, "127.0.0.1", 0, &o), 0);
    psocket_getlocal(x->peer, NULL, 0, &port);
    if (server) CHECK_INT(psocket_listen(&x->s, "127.0.0.1", 0, &o), 0);
    else CHECK_INT(psocket_connect(&x->s, "127.0.0.1", port, &o), 0);
    if (!server) psocket_getlocal(x->s, NULL, 0, &mine);
    if (mine) psocket_setpeer(x->peer, "127.0.0.1", mine);
}

static void udp_server(scene *x) { datagrams(x, 1); }
static void udp_client(scene *x) { datagrams(x, 0); }
static void udp_closed(scene *x) { datagrams(x, 0); psocket_close(x->s); }

static void udp_data(scene *x)
{
    datagrams(x, 0);
    CHECK_INT(psocket_send(x->s, "x", 1), 1); /* binds it, and tells the other where to answer */
    psocket_wait(x->peer, PSOCKET_READ, 1000);
    a_recv(x->peer);
    CHECK_INT(psocket_send(x->peer, "hello", 5), 5);
    CHECK(psocket_wait(x->s, PSOCKET_READ, 1000) > 0);
}

static void listening(scene *x)
{
    psocket_options o = net_options(1);
    CHECK_INT(psocket_listen(&x->s, "127.0.0.1", 0, &o), 0);
}

static void listening_queue(scene *x)
{
    psocket_options o = net_options(1);
    int port = 0;
    listening(x);
    psocket_getlocal(x->s, NULL, 0, &port);
    CHECK_INT(psocket_connect(&x->peer, "127.0.0.1", port, &o), 0);
    CHECK(psocket_wait(x->s, PSOCKET_READ, 1000) > 0);
}

static void listening_closed(scene *x) { listening(x); psocket_close(x->s); }

static void carry(scene *x)
{
    psocket_options o = net_options(1);
    psocket *w = NULL;
    int r = psocket_wrap(&w, x->s, &o);
    CHECK(r == 0 || r == PSOCKET_BUSY); /* it may insist on a carrier that is connected */
    if (w) x->s = w;
}

static void carried(scene *x) { open_tcp(x); carry(x); }
static void carried_data(scene *x) { put_back(x); carry(x); }
static void carried_by_tls(scene *x) { open_tls(x); carry(x); }
static void carried_ended(scene *x) { gone(x); carry(x); }
static void carried_connecting(scene *x) { connecting(x); carry(x); }

static void adopted(scene *x)
{
    psocket_options o = net_options(1);
    int fd[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    CHECK_INT(psocket_adopt(&x->s, fd[0], PSOCKET_CLIENT, &o), 0);
    x->fd = fd[1];
}

static void a_pair(scene *x)
{
    psocket_options o = net_options(1);
    CHECK_INT(psocket_pair(&x->s, &x->peer, &o), 0);
}

static void own_transport(scene *x)
{
    psocket_options o = net_options(1);
    CHECK_INT(link_pair(&x->s, &x->peer, 0, 0, &o), 0);
}

/* --- states: what a data call must answer in each ---------------------------------------------------------------- */

/* in: what psocket_recv ends with: 0 there is nothing yet (WANT), else a code; ready: bytes that come before that. out: what
   psocket_send answers: 0 it takes bytes, WANT, or a code. LOOSE: one of several. */
enum { WAIT = 0, TAKES = 0, WANT = 1, LOOSE = 2 };
enum { TCP = 1, TLS = 2, UDP = 4, LISTENS = 8, OPEN = 16, HERE = 32 };

typedef struct state {
    const char *name;
    void (*make)(scene *);
    int flags, in, ready, out;
} state;

static const state states[] = {
    { "resolving", resolving, TCP, WAIT, 0, WANT },
    { "connecting", connecting, TCP, WAIT, 0, WANT },
    { "racing", racing, TCP, WAIT, 0, WANT },
    { "not found", not_found, TCP, PSOCKET_DNS_NOT_FOUND, 0, PSOCKET_DNS_NOT_FOUND },
    { "refused", refused, TCP, PSOCKET_REFUSED, 0, PSOCKET_REFUSED },
    { "handshaking, client", greeting_client, TCP, WAIT, 0, WANT },
    { "handshaking, server", greeting_server, TCP, WAIT, 0, WANT },
    { "handshaking, halfway", halfway_client, TCP | TLS, LOOSE, 0, LOOSE },
    { "no TLS at the other end", not_tls, TCP, LOOSE, 0, LOOSE },
    { "open", open_tcp, TCP | OPEN, WAIT, 0, TAKES },
    { "open, data", data_tcp, TCP | OPEN, WAIT, 5, TAKES },
    { "open, put back", put_back, TCP | OPEN, WAIT, 5, TAKES },
    { "open, full", full, TCP | OPEN, WAIT, 0, WANT },
    { "TLS client", open_tls, TCP | TLS | OPEN, WAIT, 0, TAKES },
    { "TLS server", open_tls_server, TCP | TLS | OPEN, WAIT, 0, TAKES },
    { "TLS, data", data_tls, TCP | TLS | OPEN, WAIT, 5, TAKES },
    { "TLS, full", full_tls, TCP | TLS | OPEN, WAIT, 0, LOOSE },
    { "half-closed here", shut_here, TCP, WAIT, 0, PSOCKET_CLOSED_HERE },
    { "half-closed here, TLS", shut_here_tls, TCP | TLS, WAIT, 0, PSOCKET_CLOSED_HERE },
    { "half-closed there", shut_there, TCP, PSOCKET_CLOSED, 0, TAKES },
    { "half-closed there, data", shut_there_data, TCP, PSOCKET_CLOSED, 5, TAKES },
    { "half-closed both ways", shut_both, TCP, PSOCKET_CLOSED, 0, PSOCKET_CLOSED_HERE },
    { "peer gone", gone, TCP, LOOSE, 0, LOOSE }, /* a send makes the peer's system reset */
    { "close_notify", close_notify, TCP | TLS, PSOCKET_CLOSED, 0, LOOSE },
    { "truncated", truncated, TCP | TLS, PSOCKET_TRUNCATED, 0, LOOSE },
    { "reset", was_reset, TCP, PSOCKET_RESET, 0, PSOCKET_RESET },
    { "reset, data", was_reset_data, TCP, PSOCKET_RESET, 5, PSOCKET_RESET },
    { "bad record", bad_record, TCP | TLS, LOOSE, 0, LOOSE },
    { "closed here", closed_here, TCP | HERE, PSOCKET_CLOSED_HERE, 0, PSOCKET_CLOSED_HERE },
    { "closed here, data", closed_here_data, TCP | HERE, PSOCKET_CLOSED_HERE, 5, PSOCKET_CLOSED_HERE },
    { "closed here, TLS", closed_here_tls, TCP | TLS | HERE, PSOCKET_CLOSED_HERE, 0, PSOCKET_CLOSED_HERE },
    { "closed here, resolving", closed_resolving, TCP | HERE, PSOCKET_CLOSED_HERE, 0, PSOCKET_CLOSED_HERE },
    { "UDP, bound", udp_server, UDP | OPEN, WAIT, 0, LOOSE },
    { "UDP, connected", udp_client, UDP | OPEN, WAIT, 0, TAKES },
    { "UDP, data", udp_data, UDP | OPEN, WAIT, 5, TAKES },
    { "UDP, resolving", resolving_udp, UDP, WAIT, 0, WANT },
    { "UDP, closed", udp_closed, UDP | HERE, PSOCKET_CLOSED_HERE, 0, PSOCKET_CLOSED_HERE },
    { "listener", listening, LISTENS, PSOCKET_INVALID, 0, PSOCKET_INVALID },
    { "listener with a queue", listening_queue, LISTENS, PSOCKET_INVALID, 0, PSOCKET_INVALID },
    { "listener, closed", listening_closed, LISTENS | HERE, LOOSE, 0, LOOSE },
    { "carried", carried, TCP | OPEN, WAIT, 0, TAKES },
    { "carried, data", carried_data, TCP | OPEN, WAIT, 5, TAKES },
    { "carried by TLS", carried_by_tls, TCP | OPEN, WAIT, 0, TAKES },
    { "carried, ended", carried_ended, TCP, LOOSE, 0, LOOSE },
    { "carried, connecting", carried_connecting, TCP, WAIT, 0, LOOSE },
    { "adopted", adopted, TCP | OPEN, WAIT, 0, TAKES },
    { "one of a pair", a_pair, TCP | OPEN, WAIT, 0, TAKES },
    { "own transport", own_transport, TCP | OPEN, WAIT, 0, TAKES },
};

enum { STATES = sizeof states / sizeof *states };

/* --- calls ------------------------------------------------------------------------------------------------------ */

/* What kind of answer is right. */
enum { A_RECV, A_PEEK, A_SEND, A_INVALID, A_ANY_ERROR, A_NOTHING, A_LISTENER };

typedef struct call {
    const char *name;
    ptrdiff_t (*run)(scene *);
    int answers;
} call;

static const void *got;

static ptrdiff_t c_recv(scene *x) { return psocket_recv(x->s, &got); }
static ptrdiff_t c_recv_null(scene *x) { return psocket_recv(x->s, NULL); }
static ptrdiff_t c_peek(scene *x) { return psocket_peek(x->s, &got); }
static ptrdiff_t c_peek_null(scene *x) { return psocket_peek(x->s, NULL); }
static ptrdiff_t c_read(scene *x) { return psocket_read(x->s, 1, &got); }
static ptrdiff_t c_read_zero(scene *x) { return psocket_read(x->s, 0, &got); }
static ptrdiff_t c_read_much(scene *x) { return psocket_read(x->s, (size_t)-1, &got); }
static ptrdiff_t c_read_null(scene *x) { return psocket_read(x->s, 1, NULL); }
static ptrdiff_t c_until(scene *x) { return psocket_read_until(x->s, "h", 10, &got); }
static ptrdiff_t c_until_more(scene *x) { return psocket_read_until(x->s, "\r\n\r\n", (size_t)-1, &got); }
static ptrdiff_t c_until_empty(scene *x) { return psocket_read_until(x->s, "", 10, &got); }
static ptrdiff_t c_until_null(scene *x) { return psocket_read_until(x->s, NULL, 10, &got); }
static ptrdiff_t c_until_zero(scene *x) { return psocket_read_until(x->s, "h", 0, &got); }
static ptrdiff_t c_unrecv(scene *x) { return psocket_unrecv(x->s, "again", 5); }
static ptrdiff_t c_unrecv_zero(scene *x) { return psocket_unrecv(x->s, "", 0); }
static ptrdiff_t c_unrecv_null(scene *x) { return psocket_unrecv(x->s, NULL, 5); }
static ptrdiff_t c_pending(scene *x) { return (ptrdiff_t)psocket_pending(x->s); }
static ptrdiff_t c_send(scene *x) { return psocket_send(x->s, "x", 1); }
static ptrdiff_t c_send_null(scene *x) { return psocket_send(x->s, NULL, 1); }
static ptrdiff_t c_send_nothing(scene *x) { return psocket_send(x->s, "", 0); }
static ptrdiff_t c_flush(scene *x) { return psocket_flush(x->s); }
static ptrdiff_t c_shutdown(scene *x) { return psocket_shutdown(x->s); }
static ptrdiff_t c_close(scene *x) { psocket_close(x->s); return 0; }
static ptrdiff_t c_step(scene *x) { return psocket_step(x->s); }
static ptrdiff_t c_wait_read(scene *x) { return psocket_wait(x->s, PSOCKET_READ, 3); }
static ptrdiff_t c_wait_write(scene *x) { return psocket_wait(x->s, PSOCKET_WRITE, 3); }
static ptrdiff_t c_wait_both(scene *x) { return psocket_wait(x->s, PSOCKET_READ | PSOCKET_WRITE, 0); }
static ptrdiff_t c_wait_none(scene *x) { return psocket_wait(x->s, 0, 3); }
static ptrdiff_t c_wait_silly(scene *x) { return psocket_wait(x->s, 64, 3); }
static ptrdiff_t c_istls(scene *x) { return psocket_istls(x->s); }
static ptrdiff_t c_isudp(scene *x) { return psocket_isudp(x->s); }
static ptrdiff_t c_isopen(scene *x) { return psocket_isopen(x->s); }
static ptrdiff_t c_getside(scene *x) { return psocket_getside(x->s); }
static ptrdiff_t c_getfd(scene *x) { return psocket_getfd(x->s) < -1 ? PSOCKET_OS : 0; }
static ptrdiff_t c_nonblocking(scene *x) { psocket_setnonblocking(x->s, 1); return 0; }
static ptrdiff_t c_blocking(scene *x) { psocket_setnonblocking(x->s, 0); return 0; }
static ptrdiff_t c_timeout(scene *x) { psocket_settimeout(x->s, 5); return 0; }
static ptrdiff_t c_timeout_silly(scene *x) { psocket_settimeout(x->s, -5); psocket_settimeout(x->s, LIMIT_MS); return 0; }
static ptrdiff_t c_accept_null(scene *x) { return psocket_accept(x->s, NULL); }
static ptrdiff_t c_has(scene *x) { return psocket_hasconnection(x->s); }

static ptrdiff_t c_accept(scene *x)
{
    psocket *n = NULL;
    int r = psocket_accept(x->s, &n);
    if (r) CHECK(n == NULL);
    psocket_free(n);
    return r;
}

static ptrdiff_t c_getpeer(scene *x)
{
    char ip[128] = "";
    int port = -1, r = psocket_getpeer(x->s, ip, sizeof ip, &port);
    CHECK(psocket_getpeer(x->s, NULL, 0, NULL) == r || r == PSOCKET_LIMIT);
    CHECK(r == 0 || r < PSOCKET_WANT_WRITE);
    return 0; /* takes a const socket: it notes nothing */
}

static ptrdiff_t c_getlocal(scene *x)
{
    char ip[128] = "";
    int port = -1, r = psocket_getlocal(x->s, ip, sizeof ip, &port);
    CHECK(r == 0 || r < PSOCKET_WANT_WRITE);
    CHECK(psocket_getlocal(x->s, ip, 1, NULL) < 0 || r == 0);
    return 0;
}

static ptrdiff_t c_info(scene *x)
{
    psocket_tlsinfo info;
    int r = psocket_gettlsinfo(x->s, &info);
    CHECK(r == 0 || r == PSOCKET_INVALID);
    CHECK_INT(psocket_gettlsinfo(x->s, NULL), PSOCKET_INVALID);
    return 0;
}

static ptrdiff_t c_setpeer(scene *x) { return psocket_setpeer(x->s, "127.0.0.1", 9); }
static ptrdiff_t c_setpeer_name(scene *x) { return psocket_setpeer(x->s, "name.test", 9); }
static ptrdiff_t c_setpeer_null(scene *x) { return psocket_setpeer(x->s, NULL, 9); }
static ptrdiff_t c_starttls_client(scene *x) { return psocket_starttls(x->s, client_tls, "localhost"); }
static ptrdiff_t c_starttls_server(scene *x) { return psocket_starttls(x->s, server_tls, NULL); }
static ptrdiff_t c_starttls_nameless(scene *x) { return psocket_starttls(x->s, client_tls, NULL); }

static ptrdiff_t c_pollset(scene *x)
{
    psocket_pollfd f[PSOCKET_POLLSET_MAX];
    int ms = 1000, r = psocket_pollset(x->s, PSOCKET_READ | PSOCKET_WRITE, f, PSOCKET_POLLSET_MAX, &ms);
    CHECK(r <= PSOCKET_POLLSET_MAX && ms >= 0 && ms <= 1000);
    return r > 0 ? 0 : r;
}

static ptrdiff_t c_pollset_few(scene *x)
{
    int ms = -1, r = psocket_pollset(x->s, PSOCKET_READ, NULL, 0, &ms);
    CHECK(ms >= -1);
    return r > 0 ? 0 : r;
}

static ptrdiff_t c_poller(scene *x)
{
    const psocket_event *ev;
    int r;
    if (!x->poller && psocket_poller_new(&x->poller)) return PSOCKET_NOMEM;
    r = psocket_poller_set(x->poller, x->s, PSOCKET_READ | PSOCKET_WRITE, 3, x);
    if (r) return r;
    r = psocket_poller_wait(x->poller, &ev, 5);
    CHECK(r == 0 || r == 1);
    return 0;
}

static ptrdiff_t c_poller_out(scene *x)
{
    const psocket_event *ev;
    int r;
    if (!x->poller && psocket_poller_new(&x->poller)) return PSOCKET_NOMEM;
    r = psocket_poller_set(x->poller, x->s, 0, -1, NULL);
    CHECK_INT(psocket_poller_wait(x->poller, &ev, 0), 0);
    return r;
}

static ptrdiff_t c_wrap(scene *x)
{
    psocket_options o = net_options(1);
    psocket *w = NULL, *was = x->s;
    int r;
    psocket_error e;
    memset(&e, 0, sizeof e);
    o.error = &e;
    o.timeout_ms = LIMIT_MS;
    r = psocket_wrap(&w, was, &o);
    if (r) {
        CHECK(w == NULL);
        CHECK_INT(e.code, r);
    }
    if (w) x->s = w;
    return r < 0 ? 0 : r; /* there is no socket to ask */
}

/* What the test's peers do meanwhile. */
static ptrdiff_t c_peer_sends(scene *x)
{
    if (x->peer) psocket_send(x->peer, "hello", 5), psocket_flush(x->peer);
    else if (x->fd >= 0) CHECK(send(x->fd, "hello", 5, MSG_NOSIGNAL) <= 5);
    return 0;
}
static ptrdiff_t c_peer_shuts(scene *x) { if (x->peer) psocket_shutdown(x->peer); return 0; }
static ptrdiff_t c_peer_steps(scene *x) { if (x->peer) psocket_step(x->peer), psocket_recv(x->peer, &got); return 0; }
static ptrdiff_t c_peer_closes(scene *x) { if (x->peer) psocket_close(x->peer); return 0; }

static const call calls[] = {
    { "recv", c_recv, A_RECV }, { "recv NULL", c_recv_null, A_INVALID }, { "peek", c_peek, A_PEEK }, { "peek NULL", c_peek_null, A_INVALID },
    { "read", c_read, A_RECV }, { "read 0", c_read_zero, A_INVALID }, { "read much", c_read_much, A_ANY_ERROR }, { "read NULL", c_read_null, A_INVALID },
    { "read_until", c_until, A_RECV }, { "read_until more", c_until_more, A_ANY_ERROR }, { "read_until \"\"", c_until_empty, A_INVALID },
    { "read_until NULL", c_until_null, A_INVALID }, { "read_until of 0", c_until_zero, A_ANY_ERROR },
    { "unrecv", c_unrecv, A_NOTHING }, { "unrecv 0", c_unrecv_zero, A_NOTHING }, { "unrecv NULL", c_unrecv_null, A_INVALID }, { "pending", c_pending, A_NOTHING },
    { "send", c_send, A_SEND }, { "send NULL", c_send_null, A_INVALID }, { "send 0", c_send_nothing, A_NOTHING }, { "flush", c_flush, A_NOTHING },
    { "shutdown", c_shutdown, A_NOTHING }, { "close", c_close, A_NOTHING }, { "step", c_step, A_NOTHING }, { "wait read", c_wait_read, A_NOTHING },
    { "wait write", c_wait_write, A_NOTHING }, { "wait both", c_wait_both, A_NOTHING }, { "wait none", c_wait_none, A_NOTHING },
    { "wait silly", c_wait_silly, A_NOTHING }, { "istls", c_istls, A_NOTHING }, { "isudp", c_isudp, A_NOTHING }, { "isopen", c_isopen, A_NOTHING },
    { "getside", c_getside, A_NOTHING }, { "getfd", c_getfd, A_NOTHING }, { "nonblocking", c_nonblocking, A_NOTHING }, { "blocking", c_blocking, A_NOTHING },
    { "settimeout", c_timeout, A_NOTHING }, { "settimeout silly", c_timeout_silly, A_NOTHING }, { "accept", c_accept, A_LISTENER },
    { "accept NULL", c_accept_null, A_INVALID }, { "hasconnection", c_has, A_LISTENER }, { "getpeer", c_getpeer, A_NOTHING }, { "getlocal", c_getlocal, A_NOTHING },
    { "gettlsinfo", c_info, A_NOTHING }, { "setpeer", c_setpeer, A_NOTHING }, { "setpeer name", c_setpeer_name, A_ANY_ERROR }, { "setpeer NULL", c_setpeer_null, A_ANY_ERROR },
    { "starttls client", c_starttls_client, A_NOTHING }, { "starttls server", c_starttls_server, A_NOTHING }, { "starttls nameless", c_starttls_nameless, A_NOTHING },
    { "pollset", c_pollset, A_NOTHING }, { "pollset few", c_pollset_few, A_NOTHING }, { "poller", c_poller, A_NOTHING }, { "poller out", c_poller_out, A_NOTHING },
    { "wrap", c_wrap, A_NOTHING }, { "peer sends", c_peer_sends, A_NOTHING }, { "peer shuts", c_peer_shuts, A_NOTHING }, { "peer steps", c_peer_steps, A_NOTHING },
    { "peer closes", c_peer_closes, A_NOTHING },
};

enum { CALLS = sizeof calls / sizeof *calls };

/* --- judging ---------------------------------------------------------------------------------------------------- */

static char where[300];

static void wrong(const char *what, ptrdiff_t r)
{
    check_fail(NULL, 0, "%s: %s %s (%d)", where, what, r > 0 ? "bytes" : psocket_codename((int)r) ? psocket_codename((int)r) : "?", (int)r);
}

static int waits(ptrdiff_t r, int blocking)
{
    return blocking ? r == PSOCKET_TIMEOUT : r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE;
}

/* Does the answer fit the state? */
static int fits(const state *st, const call *c, int blocking, ptrdiff_t r)
{
    switch (c->answers) {
    case A_RECV:
    case A_PEEK:
        if (st->ready) return r > 0 && r <= st->ready;
        if (st->in == LOOSE) return r < 0;
        if (st->in == WAIT) return waits(r, blocking && c->answers == A_RECV);
        return r == st->in;
    case A_SEND:
        if (st->out == LOOSE) return r == 1 || r < 0;
        if (st->out == TAKES) return r == 1;
        if (st->out == WANT) return waits(r, blocking);
        return r == st->out;
    case A_INVALID: return r == PSOCKET_INVALID;
    case A_ANY_ERROR: return r < 0;
    case A_LISTENER:
        if (!(st->flags & LISTENS)) return r == PSOCKET_INVALID;
        if (st->flags & HERE) return r == PSOCKET_CLOSED_HERE;
        return r >= 0 || waits(r, blocking);
    default: return r >= PSOCKET_CODE_END;
    }
}

static void prepare(scene *x, const state *st, int blocking)
{
    memset(x, 0, sizeof *x);
    x->fd = -1;
    st->make(x);
    if (!x->s) return;
    psocket_setnonblocking(x->s, !blocking);
    psocket_settimeout(x->s, LIMIT_MS);
}

static void dismiss(scene *x)
{
    psocket_free(x->s);
    psocket_free(x->peer);
    psocket_free(x->more);
    if (x->question) psocket_resolve_done(x->question, 0);
    psocket_poller_free(x->poller);
    if (x->fd >= 0) close(x->fd);
}

/* One call, judged. */
static void make_call(scene *x, const state *st, const call *c, int blocking)
{
    int64_t start = check_now_ms();
    int has;
    ptrdiff_t r = c->run(x);
    start = check_now_ms() - start;
    if (start > SLOW_MS) check_fail(NULL, 0, "%s: took %d ms", where, (int)start);
    has = psocket_geterror(x->s, NULL);
    if (r < PSOCKET_WANT_WRITE && has != (int)r) {
        check_fail(NULL, 0, "%s answered %s, psocket_geterror says %s", where, psocket_codename((int)r), psocket_codename(has));
    } else if (r < PSOCKET_WANT_WRITE) {
        psocket_error e;
        memset(&e, 0, sizeof e);
        psocket_geterror(x->s, &e);
        if (e.code != has || !e.text[0]) check_fail(NULL, 0, "%s: the error has code %d and the text \"%s\"", where, e.code, e.text);
    }
    
    if (st && !fits(st, c, blocking, r)) wrong("answered", r);
    CHECK_INT(psocket_isudp(x->s) & ~1, 0);
}

static void matrix(int blocking, size_t part, size_t parts)
{
    size_t i, k;
    setup();
    for (i = part; i < STATES; i += parts) {
        for (k = 0; k < CALLS; k++) {
            scene x;
            snprintf(where, sizeof where, "%s, %s: making it", states[i].name, blocking ? "blocking" : "nonblocking");
            prepare(&x, &states[i], blocking);
            snprintf(where, sizeof where, "%s, %s: %s", states[i].name, blocking ? "blocking" : "nonblocking", calls[k].name);
            if (x.s) make_call(&x, &states[i], &calls[k], blocking);
            dismiss(&x);
        }
    }
    teardown();
}

TEST_LIMIT(nonblocking_1, 100) { matrix(0, 0, 3); }
TEST_LIMIT(nonblocking_2, 100) { matrix(0, 1, 3); }
TEST_LIMIT(nonblocking_3, 100) { matrix(0, 2, 3); }
TEST_LIMIT(blocking_1, 100) { matrix(1, 0, 3); }
TEST_LIMIT(blocking_2, 100) { matrix(1, 1, 3); }
TEST_LIMIT(blocking_3, 100) { matrix(1, 2, 3); }

/* Pairs and triples (and a few longer rows) of calls: agreement, time and no crash. */
static void sequences(unsigned seed, int count, int most)
{
    unsigned random = seed;
    int i, k;
    setup();
    for (i = 0; i < count; i++) {
        scene x;
        const state *st;
        int blocking, length;
        size_t used = 0;
        char row[160] = "";
#define DRAW(n) ((random = random * 1664525u + 1013904223u) >> 8) % (unsigned)(n)
        st = &states[DRAW(STATES)];
        blocking = (int)(DRAW(2));
        length = 2 + (int)(DRAW(most - 1));
        snprintf(where, sizeof where, "%s", st->name);
        prepare(&x, st, blocking);
        for (k = 0; k < length && x.s; k++) {
            const call *c = &calls[DRAW(CALLS)];
            used += (size_t)snprintf(row + used, used < sizeof row ? sizeof row - used : 0, "%s%s", k ? "; " : "", c->name);
            if (used >= sizeof row) used = sizeof row - 1;
            snprintf(where, sizeof where, "%.40s, %d: %s", st->name, blocking, row);
            make_call(&x, NULL, c, blocking);
        }
        dismiss(&x);
    }
    teardown();
}

TEST_LIMIT(pairs, 100) { sequences(1, 700, 2); }
TEST_LIMIT(triples, 100) { sequences(2, 700, 3); }
TEST_LIMIT(rows, 100) { sequences(3, 250, 12); }

/* No socket at all. */
TEST(null)
{
    scene x;
    size_t k;
    memset(&x, 0, sizeof x);
    x.fd = -1;
    setup();
    for (k = 0; k < CALLS; k++) {
        ptrdiff_t r;
        if (calls[k].run == c_poller || calls[k].run == c_poller_out || calls[k].run == c_wrap || calls[k].run == c_info || calls[k].run == c_getpeer ||
            calls[k].run == c_getlocal || strncmp(calls[k].name, "peer", 4) == 0)
            continue;
        r = calls[k].run(&x);
        if (r < 0 && r != PSOCKET_INVALID) check_fail(NULL, 0, "NULL: %s answered %s", calls[k].name, psocket_codename((int)r));
    }
    psocket_free(NULL);
    CHECK_INT(psocket_geterror(NULL, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_getpeer(NULL, NULL, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_getlocal(NULL, NULL, 0, NULL), PSOCKET_INVALID);
    CHECK_INT(psocket_gettlsinfo(NULL, NULL), PSOCKET_INVALID);
    CHECK(psocket_getfd(NULL) == -1);
    psocket_poller_free(NULL);
    psocket_watch_free(NULL);
    psocket_tls_free(NULL);
    teardown();
}

/* What makes sockets, with arguments that nobody means. */
TEST(silly_makers)
{
    static const char *const hosts[] = { NULL, "", " ", "unix:", "unix:/nonexistent/\1", "[::1", "127.0.0.1:80", "300.1.1.1", "a b", "-", ".", "..", "\xff", "::1%nothere",
                                         "1.2.3.4.5", "0x7f.1", "%s%n", "[::]:1:1" };
    static const int ports[] = { 0, -1, 65536, 2147483647, -2147483647 };
    psocket_error e;
    psocket_options o;
    psocket *s = (psocket *)1, *t = (psocket *)1;
    psocket_poller *p = NULL;
    psocket_watch *w = NULL;
    psocket_transport none;
    size_t i, k;
    char longest[5000];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    for (i = 0; i < sizeof ports / sizeof *ports; i++) {
        memset(&o, 0, sizeof o);
        memset(&e, 0, sizeof e);
        o.error = &e;
        o.timeout_ms = 200;
        CHECK(psocket_connect(&s, "127.0.0.1", ports[i], &o) < 0 && s == NULL && e.code < 0 && e.text[0]);
        if (ports[i]) CHECK(psocket_listen(&s, "127.0.0.1", ports[i], &o) < 0 && s == NULL && e.code < 0 && e.text[0]);
        o.udp = 1;
        CHECK(psocket_connect(&s, "127.0.0.1", ports[i], &o) < 0 && s == NULL);
    }
    for (i = 0; i < 4; i++) {
        memset(&o, 0, sizeof o);
        memset(&e, 0, sizeof e);
        o.error = &e;
        o.timeout_ms = 300;
        o.nonblocking = (int)i & 1;
        o.udp = (int)i >> 1;
        for (k = 0; k <= sizeof hosts / sizeof *hosts; k++) {
            const char *host = k < sizeof hosts / sizeof *hosts ? hosts[k] : longest;
            int r = psocket_connect(&s, host, 1, &o);
            if (r) CHECK(s == NULL && e.code == r && e.text[0]);
            else {
                CHECK(s != NULL);
                psocket_wait(s, PSOCKET_WRITE, 300);
                psocket_free(s);
            }
            if (!host) continue;
            r = psocket_listen(&s, host, 0, &o);
            if (r) CHECK(s == NULL && e.code == r && e.text[0]);
            psocket_free(s);
        }
        CHECK_INT(psocket_connect(NULL, "127.0.0.1", 1, &o), PSOCKET_INVALID);
        CHECK_INT(psocket_listen(NULL, NULL, 0, &o), PSOCKET_INVALID);
        CHECK_INT(psocket_pair(NULL, &t, &o), PSOCKET_INVALID);
        CHECK_INT(psocket_pair(&s, NULL, &o), PSOCKET_INVALID);
        CHECK_INT(psocket_wrap(&s, NULL, &o), PSOCKET_INVALID);
        CHECK_INT(psocket_wrap(NULL, NULL, &o), PSOCKET_INVALID);
        CHECK_INT(psocket_open(&s, NULL, NULL, PSOCKET_CLIENT, &o), PSOCKET_INVALID);
        memset(&none, 0, sizeof none);
        CHECK_INT(psocket_open(&s, &none, NULL, PSOCKET_CLIENT, &o), PSOCKET_INVALID);
        CHECK(s == NULL);
        CHECK(psocket_adopt(&s, -1, PSOCKET_CLIENT, &o) < 0 && s == NULL);
        CHECK(psocket_adopt(&s, 1000000, PSOCKET_CLIENT, &o) < 0 && s == NULL);
        k = (size_t)open("/dev/null", O_RDONLY);
        CHECK(psocket_adopt(&s, (psocket_fd)k, PSOCKET_CLIENT, &o) < 0 && s == NULL);
        CHECK(close((int)k) == 0); /* still ours */
    }
    CHECK_INT(psocket_poller_new(NULL), PSOCKET_INVALID);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, NULL, PSOCKET_READ, -1, p), PSOCKET_INVALID);
    CHECK_INT(psocket_poller_set(NULL, NULL, PSOCKET_READ, -1, p), PSOCKET_INVALID);
    CHECK(psocket_poller_watch(p, NULL, -1, 0, 10, p) < 0);
    CHECK(psocket_poller_watch(p, &w, -5, PSOCKET_READ, -1, p) < 0 && w == NULL);
    CHECK(psocket_poller_watch(NULL, &w, -1, 0, 10, p) < 0 && w == NULL);
    CHECK(psocket_poller_wait(NULL, NULL, 0) < 0);
    CHECK(psocket_poller_getfd(NULL, NULL) == -1);
    psocket_poller_wake(NULL);
    psocket_poller_free(p);
}
