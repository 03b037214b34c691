/* kit.h - what the TLS tests share: certificates, settings, two sockets joined in memory, bytes on the wire, and records
 * sealed and opened by keys of the key log. It includes check.h and the implementation, with hooks for the tests:
 * random numbers that can be fixed, the key log, and a calendar. All else goes through the public functions. */
#ifndef KIT_H
#define KIT_H

#include <stddef.h>
#include <stdint.h>

static int kit_entropy(void *p, size_t n);
static void kit_keylog(const char *line);
#ifndef PSOCKET_ENTROPY
#define PSOCKET_ENTROPY(p, n) kit_entropy(p, n)
#endif
#ifndef PSOCKET_KEYLOG
#define PSOCKET_KEYLOG(line) kit_keylog(line)
#endif
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include <bearssl.h>
#include <sys/random.h>

/* --- random numbers: the system's, or a sequence that begins anew with each kit_seed ------------------------------- */

static uint64_t kit_sequence; /* 0: the system's */
static int kit_no_entropy;    /* there are none */

static CHECK_UNUSED void kit_seed(uint64_t seed)
{
    kit_sequence = seed;
}

static CHECK_UNUSED uint64_t kit_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static CHECK_UNUSED int kit_entropy(void *p, size_t n)
{
    uint8_t *b = (uint8_t *)p;
    if (kit_no_entropy) return -1;
    if (!kit_sequence) return getrandom(p, n, 0) == (ssize_t)n ? 0 : -1;
    while (n--) *b++ = (uint8_t)kit_next(&kit_sequence);
    return 0;
}

/* --- settings ---------------------------------------------------------------------------------------------------- */

typedef struct kit_settings {
    psocket_tls_options opt;
    char *text[16]; /* files that opt points into */
    int texts;
    psocket_identity identities[8];
    psocket_error error;
} kit_settings;

/* The TLS version that settings are made for: 0 leaves it to the library. */
static CHECK_UNUSED int kit_version;

#ifdef KIT_BASE
#define kit_versions(s) (void)(s)
#else
static CHECK_UNUSED void kit_versions(kit_settings *s)
{
    if (kit_version && !s->opt.min_version && !s->opt.max_version) s->opt.min_version = s->opt.max_version = kit_version;
}
#endif

/* A test that runs with each TLS version. */
#define KIT_TEST(name, seconds) \
    static void name(void); \
    TEST_LIMIT(name##_12, seconds) \
    { \
        kit_version = 0x0303; \
        name(); \
    } \
    KIT_TEST_13(name, seconds) \
    static void name(void)
#define KIT_TEST_12(name, seconds) \
    static void name(void); \
    TEST_LIMIT(name##_12, seconds) \
    { \
        kit_version = 0x0303; \
        name(); \
    } \
    static void name(void)
#ifdef KIT_BASE
#define KIT_TEST_13(name, seconds)
#else
#define KIT_TEST_13(name, seconds) \
    TEST_LIMIT(name##_13, seconds) \
    { \
        kit_version = 0x0304; \
        name(); \
    }
#endif

/* A file from the folder of certificates, NUL-terminated. Freed by kit_done. */
static CHECK_UNUSED char *kit_file(kit_settings *s, const char *name)
{
    char path[1024];
    FILE *f;
    char *text;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", check_certs(), name);
    f = fopen(path, "rb");
    text = (char *)calloc(1, 65536);
    n = f && text ? fread(text, 1, 65535, f) : 0;
    if (!n) check_fail(__FILE__, __LINE__, "cannot read %s", path);
    if (f) fclose(f);
    if (s->texts < 16) s->text[s->texts++] = text;
    return text;
}

static CHECK_UNUSED void kit_ca(kit_settings *s, const char *name)
{
    s->opt.ca = kit_file(s, name);
    s->opt.ca_len = 0;
}

/* NAME.pem and NAME.key. */
static CHECK_UNUSED void kit_identity(kit_settings *s, const char *name)
{
    size_t i = s->opt.identity_count;
    char file[64];
    if (i >= 8) return;
    snprintf(file, sizeof file, "%s.pem", name);
    s->identities[i].chain = kit_file(s, file);
    snprintf(file, sizeof file, "%s.key", name);
    s->identities[i].key = kit_file(s, file);
    s->opt.identities = s->identities;
    s->opt.identity_count = i + 1;
}

/* Makes the settings; NULL and a recorded failure if that is not possible. */
static CHECK_UNUSED psocket_tls *kit_make(kit_settings *s)
{
    psocket_tls *tls = NULL;
    s->opt.error = &s->error;
    kit_versions(s);
    if (psocket_tls_new(&tls, &s->opt)) check_fail(__FILE__, __LINE__, "psocket_tls_new: %s", s->error.text);
    return tls;
}

static CHECK_UNUSED void kit_done(kit_settings *s)
{
    while (s->texts) free(s->text[--s->texts]);
    memset(s, 0, sizeof *s);
}

/* Settings that trust ca.pem: a client's if identity is NULL, else a server's or that of a client who has one. */
static CHECK_UNUSED psocket_tls *kit_tls(const char *identity, const char *suites, int client_auth)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.suites = suites;
    s.opt.client_auth = client_auth;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

static CHECK_UNUSED psocket_tls *kit_client(void)
{
    return kit_tls(NULL, NULL, PSOCKET_CLIENT_AUTH_NONE);
}

static CHECK_UNUSED psocket_tls *kit_server(const char *name)
{
    return kit_tls(name, NULL, PSOCKET_CLIENT_AUTH_NONE);
}

/* 1 if the server proved itself with an EC key, 0 if with RSA. Not for resumed sessions. */
static CHECK_UNUSED int kit_is_ec(const psocket_tlsinfo *i)
{
    const char *name = i->suite_name;
#ifndef KIT_BASE
    if (i->version == 0x0304) name = i->sigalg_name;
#endif
    return strstr(name, "ECDSA") || strstr(name, "ecdsa");
}

static int64_t kit_time; /* what kit_clock answers */
static CHECK_UNUSED int64_t kit_clock(void *user)
{
    (void)user;
    return kit_time;
}

/* --- bytes on the wire ------------------------------------------------------------------------------------------- */

typedef struct kit_bytes {
    uint8_t p[80000];
    size_t n;
} kit_bytes;

static CHECK_UNUSED void kit_put(kit_bytes *b, const void *p, size_t n)
{
    if (b->n + n > sizeof b->p) {
        check_fail(__FILE__, __LINE__, "kit_bytes is full");
        return;
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}

static CHECK_UNUSED void kit_number(kit_bytes *b, size_t value, size_t bytes)
{
    while (bytes--) {
        uint8_t c = (uint8_t)(value >> 8 * bytes);
        kit_put(b, &c, 1);
    }
}

static CHECK_UNUSED size_t kit_get(const uint8_t *p, size_t bytes)
{
    size_t v = 0;
    while (bytes--) v = v << 8 | *p++;
    return v;
}

static CHECK_UNUSED void kit_record(kit_bytes *b, int type, const void *p, size_t n)
{
    kit_number(b, (size_t)type, 1);
    kit_number(b, 0x0303, 2);
    kit_number(b, n, 2);
    kit_put(b, p, n);
}

/* A handshake message with its header. */
static CHECK_UNUSED void kit_handshake(kit_bytes *b, int type, const void *p, size_t n)
{
    kit_number(b, (size_t)type, 1);
    kit_number(b, n, 3);
    kit_put(b, p, n);
}

/* The alert in b, as level * 256 + number, -1 if its last record is not one in plaintext. */
static CHECK_UNUSED int kit_alert(const kit_bytes *b)
{
    const uint8_t *p = b->p;
    size_t n = b->n;
    while (n >= 5) {
        size_t len = 5 + kit_get(p + 3, 2);
        if (len == n) return p[0] == 21 && n == 7 ? p[5] * 256 + p[6] : -1;
        if (len > n) break;
        p += len;
        n -= len;
    }
    return -1;
}

/* The payloads of the plaintext handshake records at the beginning of b; *rest is where they end. */
static CHECK_UNUSED void kit_messages(const kit_bytes *b, kit_bytes *out, size_t *rest)
{
    size_t i = 0;
    out->n = 0;
    while (i + 5 <= b->n && b->p[i] == 22) {
        size_t len = kit_get(b->p + i + 3, 2);
        if (i + 5 + len > b->n) break;
        kit_put(out, b->p + i + 5, len);
        i += 5 + len;
    }
    if (rest) *rest = i;
}

/* Where message number k begins in m, and its length with its header; 0 if there is none. */
static CHECK_UNUSED size_t kit_message(const kit_bytes *m, int k, size_t *at)
{
    size_t i = 0;
    while (i + 4 <= m->n) {
        size_t len = 4 + kit_get(m->p + i + 1, 3);
        if (i + len > m->n) return 0;
        *at = i;
        if (!k--) return len;
        i += len;
    }
    return 0;
}

/* Where the extension of this type begins (its type) in a hello's message of n bytes; 0 if it is not there. */
static CHECK_UNUSED size_t kit_extension(const uint8_t *m, size_t n, int type)
{
    size_t i = 4 + 2 + 32;
    if (n < i + 1) return 0;
    i += 1 + (size_t)m[i];
    if (m[0] == 1) {
        i += 2 + kit_get(m + i, 2);
        i += 1 + (size_t)m[i];
    } else {
        i += 3;
    }
    for (i += 2; i + 4 <= n; i += 4 + kit_get(m + i + 2, 2))
        if ((int)kit_get(m + i, 2) == type) return i;
    return 0;
}

/* --- a socket on a transport of the test's own -------------------------------------------------------------------- */

typedef struct kit_end {
    psocket *s;
    kit_bytes in;  /* what it has yet to read */
    kit_bytes out; /* what it has sent and nobody has taken */
    size_t in_at;
    int in_end;    /* the stream ends behind in */
    int finished;  /* it has ended its own */
    int closed;
    int status;    /* of the handshake: PSOCKET_WANT_READ, 0 when done, or an error */
    long gets;     /* how often it has asked for bytes */
} kit_end;

static CHECK_UNUSED ptrdiff_t kit_io_get(kit_end *h, void *p, size_t n)
{
    size_t have = h->in.n - h->in_at;
    h->gets++;
    if (!have) return h->in_end ? 0 : PSOCKET_WANT_READ;
    if (n > have) n = have;
    memcpy(p, h->in.p + h->in_at, n);
    h->in_at += n;
    if (h->in_at == h->in.n) h->in_at = h->in.n = 0;
    return (ptrdiff_t)n;
}

static CHECK_UNUSED ptrdiff_t kit_io_put(kit_end *h, const void *p, size_t n)
{
    size_t room = sizeof h->out.p - h->out.n;
    if (!room) return PSOCKET_WANT_WRITE;
    if (n > room) n = room;
    kit_put(&h->out, p, n);
    return (ptrdiff_t)n;
}

#ifdef KIT_BASE
static ptrdiff_t kb_get(psocket *s, void *p, size_t n, int *os) { (void)os; return kit_io_get((kit_end *)s->below, p, n); }
static ptrdiff_t kb_put(psocket *s, const void *p, size_t n, int *os) { (void)os; return kit_io_put((kit_end *)s->below, p, n); }
static int kb_fin(psocket *s, int *os) { (void)os; ((kit_end *)s->below)->finished = 1; return 0; }
static void kb_end(psocket *s) { ((kit_end *)s->below)->closed = 1; }
static int kb_wants(psocket *s, int e, psocket_pollfd *f, int c, int *ms) { (void)s; (void)e; (void)f; (void)c; (void)ms; return 0; }
static const psi_io kit_io = { kb_get, kb_put, kb_fin, kb_end, kb_wants, 0 };
static CHECK_UNUSED kit_end *kit_plain(int side)
{
    kit_end *h = (kit_end *)calloc(1, sizeof *h);
    psocket_options o = {0};
    o.nonblocking = 1;
    h->s = psi_sock_new(&o, side);
    h->s->below = h;
    h->s->io = &kit_io;
    return h;
}
#else
/* The transport's functions: psocket_transport. */
static ptrdiff_t kit_transport_get(void *user, void *p, size_t n, int *os)
{
    (void)os;
    return kit_io_get((kit_end *)user, p, n);
}

static ptrdiff_t kit_transport_put(void *user, const void *p, size_t n, int *os)
{
    (void)os;
    return kit_io_put((kit_end *)user, p, n);
}

static int kit_transport_finish(void *user, int *os)
{
    (void)os;
    ((kit_end *)user)->finished = 1;
    return 0;
}

static void kit_transport_close(void *user)
{
    ((kit_end *)user)->closed = 1;
}

/* Nothing comes while the test is not at work. */
static int kit_transport_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)user;
    (void)events;
    (void)fds;
    (void)cap;
    (void)ms;
    return 0;
}

/* A nonblocking socket without TLS. */
static CHECK_UNUSED kit_end *kit_plain(int side)
{
    static const psocket_transport transport = {kit_transport_get, kit_transport_put, kit_transport_finish,
                                                kit_transport_close, kit_transport_wants};
    kit_end *h = (kit_end *)calloc(1, sizeof *h);
    psocket_options o = {0};
    o.nonblocking = 1;
    if (!h || psocket_open(&h->s, &transport, h, side, &o)) {
        check_fail(__FILE__, __LINE__, "psocket_open");
        exit(1);
    }
    return h;
}
#endif

/* Carries the handshake on. */
static CHECK_UNUSED int kit_turn(kit_end *h)
{
    if (h->status == PSOCKET_WANT_READ || h->status == PSOCKET_WANT_WRITE) h->status = psocket_step(h->s);
    if (h->status == PSOCKET_WANT_WRITE) h->status = PSOCKET_WANT_READ;
    return h->status;
}

/* Begins a handshake. 0, or what psocket_starttls said, and then there is no end. */
static CHECK_UNUSED int kit_new(kit_end **out, psocket_tls *tls, int side, const char *name, psocket_error *e)
{
    kit_end *h = kit_plain(side);
    *out = NULL;
    h->status = psocket_starttls(h->s, tls, name);
    if (h->status == PSOCKET_WANT_READ || h->status == PSOCKET_WANT_WRITE) {
        kit_turn(h);
        *out = h;
        return 0;
    }
    if (e) psocket_geterror(h->s, e);
    if (e && !e->code) e->code = h->status;
    side = h->status;
    psocket_free(h->s);
    free(h);
    return side ? side : PSOCKET_OS;
}

static CHECK_UNUSED void kit_free(kit_end *h)
{
    if (!h) return;
    psocket_free(h->s);
    free(h);
}

static CHECK_UNUSED int kit_status(const kit_end *h, psocket_error *e)
{
    if (e) psocket_geterror(h->s, e);
    return h->status;
}

/* Gives it bytes and lets it go on. */
static CHECK_UNUSED void kit_feed(kit_end *h, const void *p, size_t n)
{
    if (h->in_at) {
        memmove(h->in.p, h->in.p + h->in_at, h->in.n - h->in_at);
        h->in.n -= h->in_at;
        h->in_at = 0;
    }
    kit_put(&h->in, p, n);
    kit_turn(h);
}

/* Ends what it receives. */
static CHECK_UNUSED void kit_eof(kit_end *h)
{
    h->in_end = 1;
    kit_turn(h);
}

/* All output of h, taken away. */
static CHECK_UNUSED void kit_take(kit_end *h, kit_bytes *b)
{
    b->n = 0;
    kit_put(b, h->out.p, h->out.n);
    h->out.n = 0;
    kit_turn(h);
}

/* Moves up to max bytes of from's output to to. 1 if anything moved. */
static CHECK_UNUSED int kit_move(kit_end *from, kit_end *to, size_t max)
{
    size_t n = from->out.n < max ? from->out.n : max;
    if (!n) return 0;
    if (to->closed) {
        from->out.n = 0;
        return 1;
    }
    kit_put(&to->in, from->out.p, n);
    memmove(from->out.p, from->out.p + n, from->out.n - n);
    from->out.n -= n;
    kit_turn(from);
    kit_turn(to);
    return 1;
}

/* Runs both to their ends, step bytes at a time. */
static CHECK_UNUSED void kit_run(kit_end *c, kit_end *s, size_t step)
{
    long rounds = 0;
    int moved = 1;
    while (moved && rounds++ < 2000000) {
        moved = kit_move(c, s, step);
        moved |= kit_move(s, c, step);
    }
    CHECK(rounds < 2000000);
}

typedef struct kit_ends {
    kit_end *client, *server;
    psocket_error client_error, server_error;
    int client_status, server_status;
} kit_ends;

static CHECK_UNUSED int kit_begin(kit_ends *p, psocket_tls *client, psocket_tls *server, const char *name)
{
    psocket_error e = {0};
    memset(p, 0, sizeof *p);
    if (!kit_new(&p->client, client, PSOCKET_CLIENT, name, &e) && !kit_new(&p->server, server, PSOCKET_SERVER, NULL, &e))
        return 1;
    check_fail(__FILE__, __LINE__, "psocket_starttls: %d %s", e.code, e.text);
    p->client_status = p->server_status = e.code;
    return 0;
}

/* A handshake from start to end. */
static CHECK_UNUSED void kit_shake(kit_ends *p, psocket_tls *client, psocket_tls *server, const char *name, size_t step)
{
    if (!kit_begin(p, client, server, name)) return;
    kit_run(p->client, p->server, step);
    p->client_status = kit_status(p->client, &p->client_error);
    p->server_status = kit_status(p->server, &p->server_error);
}

static CHECK_UNUSED void kit_end_both(kit_ends *p)
{
    kit_free(p->client);
    kit_free(p->server);
    memset(p, 0, sizeof *p);
}

/* Sends text from one end to the other and compares. */
static CHECK_UNUSED void kit_say(kit_end *from, kit_end *to, const char *text)
{
    const void *data = NULL;
    ptrdiff_t n;
    CHECK_INT(psocket_send(from->s, text, strlen(text)), strlen(text));
    CHECK_INT(psocket_flush(from->s), 0);
    kit_move(from, to, sizeof from->out.p);
    n = psocket_recv(to->s, &data);
    if (!CHECK_INT(n, strlen(text))) return;
    CHECK_MEM(data, text, strlen(text));
    kit_move(to, from, sizeof to->out.p); /* what it had to answer, if anything */
}

/* Both ends succeeded: talks both ways, and stores what was agreed. */
static CHECK_UNUSED void kit_talk(kit_ends *p, psocket_tlsinfo *client, psocket_tlsinfo *server)
{
    if (!CHECK_INT(p->client_status, 0)) check_fail(__FILE__, __LINE__, "client: %s", p->client_error.text);
    if (!CHECK_INT(p->server_status, 0)) check_fail(__FILE__, __LINE__, "server: %s", p->server_error.text);
    if (p->client_status || p->server_status) return;
    kit_say(p->client, p->server, "question");
    kit_say(p->server, p->client, "answer");
    kit_say(p->client, p->server, "thanks");
    if (client) CHECK_INT(psocket_gettlsinfo(p->client->s, client), 0);
    if (server) CHECK_INT(psocket_gettlsinfo(p->server->s, server), 0);
}

/* A whole handshake that must succeed. */
static CHECK_UNUSED void kit_good(psocket_tls *client, psocket_tls *server, const char *name, size_t step,
                                  psocket_tlsinfo *ci, psocket_tlsinfo *si)
{
    kit_ends p;
    if (ci) memset(ci, 0, sizeof *ci);
    if (si) memset(si, 0, sizeof *si);
    kit_shake(&p, client, server, name, step);
    kit_talk(&p, ci, si);
    kit_end_both(&p);
}

/* A whole handshake that must fail with these codes; alert was sent by the side whose code is not TLS_ALERT. */
static CHECK_UNUSED void kit_bad(psocket_tls *client, psocket_tls *server, const char *name, int client_code,
                                 int server_code, int alert)
{
    kit_ends p;
    kit_shake(&p, client, server, name, 512);
    if (!p.client_status && p.server_status < PSOCKET_WANT_READ && p.client) { /* TLS 1.3: the client is done before it hears of it */
        const void *data;
        p.client_status = (int)psocket_recv(p.client->s, &data);
        psocket_geterror(p.client->s, &p.client_error);
    }
    if (!CHECK_INT(p.client_status, client_code)) check_fail(__FILE__, __LINE__, "client: %s", p.client_error.text);
    if (!CHECK_INT(p.server_status, server_code)) check_fail(__FILE__, __LINE__, "server: %s", p.server_error.text);
    CHECK_INT(p.client_error.tls_alert, alert);
    CHECK_INT(p.server_error.tls_alert, alert);
    CHECK(p.client_error.text[0] && p.server_error.text[0]);
    kit_end_both(&p);
}

/* h must have failed with this code and have put this alert (in plaintext) into its output. */
static CHECK_UNUSED void kit_failed(kit_end *h, int code, int alert, const char *what)
{
    psocket_error e = {0};
    static kit_bytes b;
    int status = kit_status(h, &e);
    kit_take(h, &b);
    if (status != code) check_fail(__FILE__, __LINE__, "%s: status %d (%s), not %d", what, status, e.text, code);
    if (e.tls_alert != alert) check_fail(__FILE__, __LINE__, "%s: alert %d in the error, not %d", what, e.tls_alert, alert);
    if (kit_alert(&b) != 512 + alert) check_fail(__FILE__, __LINE__, "%s: alert %d on the wire, not %d", what, kit_alert(&b), 512 + alert);
    if (status == code && !e.text[0]) check_fail(__FILE__, __LINE__, "%s: no text", what);
}

/* --- secrets of the key log --------------------------------------------------------------------------------------- */

typedef struct kit_secret {
    char label[40];
    uint8_t random[32], secret[64];
    size_t len;
} kit_secret;

static kit_secret kit_secrets[64]; /* the newest ones */
static size_t kit_secret_count;
static int kit_keylog_lines;

static size_t kit_unhex(const char *hex, uint8_t *out, size_t max)
{
    size_t n = 0;
    unsigned v;
    while (n < max && sscanf(hex + 2 * n, "%2x", &v) == 1 && hex[2 * n] > ' ') out[n++] = (uint8_t)v;
    return n;
}

static CHECK_UNUSED void kit_keylog(const char *line)
{
    kit_secret *s = &kit_secrets[kit_secret_count++ % 64];
    char random[80], secret[200];
    memset(s, 0, sizeof *s);
    kit_keylog_lines++;
    if (sscanf(line, "%39s %79s %199s", s->label, random, secret) != 3) return;
    kit_unhex(random, s->random, 32);
    s->len = kit_unhex(secret, s->secret, 64);
}

/* The secret with this label of the connection with this client random; NULL if it was not logged. */
static CHECK_UNUSED const kit_secret *kit_find_secret(const char *label, const uint8_t *random)
{
    size_t i;
    for (i = 0; i < 64; i++)
        if (!strcmp(kit_secrets[i].label, label) && !memcmp(kit_secrets[i].random, random, 32)) return &kit_secrets[i];
    return NULL;
}

/* --- records sealed and opened by the test ------------------------------------------------------------------------- */

typedef struct kit_key {
    int suite, v13;
    uint8_t key[32], iv[12];
    uint8_t secret[48]; /* TLS 1.3: the traffic secret */
    uint64_t seq;
} kit_key;

static int kit_chacha(int suite)
{
    return suite == 0x1303 || suite == 0xCCA8 || suite == 0xCCA9;
}

static size_t kit_key_len(int suite)
{
    return kit_chacha(suite) || suite == 0x1302 || suite == 0xC02C || suite == 0xC030 ? 32 : 16;
}

static const br_hash_class *kit_hash(int suite)
{
    return suite == 0x1302 || suite == 0xC02C || suite == 0xC030 ? &br_sha384_vtable : &br_sha256_vtable;
}

static size_t kit_hash_len(int suite)
{
    return kit_hash(suite) == &br_sha384_vtable ? 48 : 32;
}

static CHECK_UNUSED void kit_hmac(int suite, const uint8_t *key, size_t key_len, const void *p, size_t n, uint8_t *out)
{
    br_hmac_key_context kc;
    br_hmac_context hc;
    br_hmac_key_init(&kc, kit_hash(suite), key, key_len);
    br_hmac_init(&hc, &kc, 0);
    br_hmac_update(&hc, p, n);
    br_hmac_out(&hc, out);
}

/* RFC 8446 7.1. */
static CHECK_UNUSED void kit_expand(int suite, const uint8_t *secret, const char *label, const uint8_t *context,
                                    size_t context_len, uint8_t *out, size_t n)
{
    uint8_t info[128], block[64], data[200];
    size_t len = 0, have = 0, k, done = 0;
    uint8_t counter = 1;
    info[len++] = (uint8_t)(n >> 8);
    info[len++] = (uint8_t)n;
    k = strlen(label);
    info[len++] = (uint8_t)(6 + k);
    memcpy(info + len, "tls13 ", 6);
    memcpy(info + len + 6, label, k);
    len += 6 + k;
    info[len++] = (uint8_t)context_len;
    if (context_len) memcpy(info + len, context, context_len);
    len += context_len;
    while (done < n) {
        memcpy(data, block, have);
        memcpy(data + have, info, len);
        data[have + len] = counter++;
        kit_hmac(suite, secret, kit_hash_len(suite), data, have + len + 1, block);
        have = kit_hash_len(suite);
        k = n - done < have ? n - done : have;
        memcpy(out + done, block, k);
        done += k;
    }
}

static CHECK_UNUSED void kit_key_13(kit_key *k, int suite, const uint8_t *secret)
{
    memset(k, 0, sizeof *k);
    k->suite = suite;
    k->v13 = 1;
    memcpy(k->secret, secret, kit_hash_len(suite));
    kit_expand(suite, secret, "key", NULL, 0, k->key, kit_key_len(suite));
    kit_expand(suite, secret, "iv", NULL, 0, k->iv, 12);
}

/* As after a KeyUpdate. */
static CHECK_UNUSED void kit_key_update(kit_key *k)
{
    uint8_t next[48];
    kit_expand(k->suite, k->secret, "traffic upd", NULL, 0, next, kit_hash_len(k->suite));
    kit_key_13(k, k->suite, next);
}

static CHECK_UNUSED void kit_prf(int suite, const uint8_t *secret, const char *label, const void *seed, size_t seed_len, void *out, size_t n)
{
    br_tls_prf_seed_chunk chunk;
    chunk.data = seed;
    chunk.len = seed_len;
    (kit_hash(suite) == &br_sha384_vtable ? br_tls12_sha384_prf : br_tls12_sha256_prf)(out, n, secret, 48, label, 1, &chunk);
}

/* TLS 1.2: of the client's direction (0) or the server's (1). */
static CHECK_UNUSED void kit_key_12(kit_key *k, int suite, const uint8_t *master, const uint8_t *client_random,
                                    const uint8_t *server_random, int server)
{
    uint8_t seed[64], block[128];
    size_t n = kit_key_len(suite), iv = kit_chacha(suite) ? 12 : 4;
    memset(k, 0, sizeof *k);
    k->suite = suite;
    memcpy(seed, server_random, 32);
    memcpy(seed + 32, client_random, 32);
    kit_prf(suite, master, "key expansion", seed, 64, block, 2 * (n + iv));
    memcpy(k->key, block + (server ? n : 0), n);
    memcpy(k->iv, block + 2 * n + (server ? iv : 0), iv);
}

/* The AEAD over p in place. */
static void kit_aead(const kit_key *k, const uint8_t *nonce, const uint8_t *aad, size_t aad_len, uint8_t *p, size_t n, uint8_t *tag, int seal)
{
    if (kit_chacha(k->suite)) {
        br_poly1305_ctmul_run(k->key, nonce, p, n, aad, aad_len, tag, br_chacha20_ct_run, seal);
    } else {
        br_aes_ct_ctr_keys aes;
        br_gcm_context gcm;
        br_aes_ct_ctr_init(&aes, k->key, kit_key_len(k->suite));
        br_gcm_init(&gcm, &aes.vtable, br_ghash_ctmul64);
        br_gcm_reset(&gcm, nonce, 12);
        br_gcm_aad_inject(&gcm, aad, aad_len);
        br_gcm_flip(&gcm);
        br_gcm_run(&gcm, seal, p, n);
        br_gcm_get_tag(&gcm, tag);
    }
}

/* Nonce and additional data of the next record; returns how long the latter is. */
static size_t kit_frame(const kit_key *k, int type, size_t n, const uint8_t *explicit_nonce, uint8_t *nonce, uint8_t *aad)
{
    size_t i;
    memcpy(nonce, k->iv, 12);
    if (k->v13 || kit_chacha(k->suite))
        for (i = 0; i < 8; i++) nonce[4 + i] ^= (uint8_t)(k->seq >> (56 - 8 * i));
    else memcpy(nonce + 4, explicit_nonce, 8);
    if (k->v13) {
        aad[0] = 23;
        aad[1] = aad[2] = 3;
        aad[3] = (uint8_t)((n + 16) >> 8);
        aad[4] = (uint8_t)(n + 16);
        return 5;
    }
    for (i = 0; i < 8; i++) aad[i] = (uint8_t)(k->seq >> (56 - 8 * i));
    aad[8] = (uint8_t)type;
    aad[9] = aad[10] = 3;
    aad[11] = (uint8_t)(n >> 8);
    aad[12] = (uint8_t)n;
    return 13;
}

/* Appends a sealed record to b; pad bytes of zero behind the content (TLS 1.3). */
static CHECK_UNUSED void kit_seal(kit_key *k, kit_bytes *b, int type, const void *p, size_t n, size_t pad)
{
    static uint8_t plain[40000];
    uint8_t nonce[12], aad[13], tag[16], explicit_nonce[8];
    size_t i, aad_len, head = !k->v13 && !kit_chacha(k->suite) ? 8 : 0;
    if (n) memcpy(plain, p, n);
    if (k->v13) {
        plain[n++] = (uint8_t)type;
        memset(plain + n, 0, pad);
        n += pad;
    }
    for (i = 0; i < 8; i++) explicit_nonce[i] = (uint8_t)(k->seq >> (56 - 8 * i));
    aad_len = kit_frame(k, type, n, explicit_nonce, nonce, aad);
    kit_aead(k, nonce, aad, aad_len, plain, n, tag, 1);
    k->seq++;
    kit_number(b, k->v13 ? 23 : (size_t)type, 1);
    kit_number(b, 0x0303, 2);
    kit_number(b, head + n + 16, 2);
    kit_put(b, explicit_nonce, head);
    kit_put(b, plain, n);
    kit_put(b, tag, 16);
}

/* Opens the record at p (its whole length); returns its content's length in plain and *type, or -1 if it is not sealed
   with k. */
static CHECK_UNUSED ptrdiff_t kit_open(kit_key *k, const uint8_t *p, uint8_t *plain, int *type)
{
    uint8_t nonce[12], aad[13], tag[16];
    size_t len = kit_get(p + 3, 2), head = !k->v13 && !kit_chacha(k->suite) ? 8 : 0, n, aad_len;
    if (len < head + 16) return -1;
    n = len - head - 16;
    *type = p[0];
    aad_len = kit_frame(k, *type, n, p + 5, nonce, aad);
    memcpy(plain, p + 5 + head, n);
    kit_aead(k, nonce, aad, aad_len, plain, n, tag, 0);
    if (memcmp(tag, p + 5 + head + n, 16)) return -1;
    k->seq++;
    if (!k->v13) return (ptrdiff_t)n;
    while (n && !plain[n - 1]) n--;
    if (!n) return -1;
    *type = plain[--n];
    return (ptrdiff_t)n;
}

/* What a listener on the wire knows of a connection: set by kit_tap from the hellos that pass. */
typedef struct kit_tap {
    uint8_t client_random[32], server_random[32];
    int suite, v13;
} kit_tap;

/* Looks at a flight for ClientHello and ServerHello. */
static CHECK_UNUSED void kit_look(kit_tap *t, const kit_bytes *b)
{
    static kit_bytes m;
    size_t at, len, ext;
    int k;
    kit_messages(b, &m, NULL);
    for (k = 0; (len = kit_message(&m, k, &at)) != 0; k++) {
        const uint8_t *p = m.p + at;
        if (p[0] == 1) memcpy(t->client_random, p + 6, 32);
        if (p[0] != 2) continue;
        memcpy(t->server_random, p + 6, 32);
        t->suite = (int)kit_get(p + 39 + p[38], 2);
        ext = kit_extension(p, len, 43);
        t->v13 = ext && kit_get(p + ext + 4, 2) == 0x0304;
    }
}

/* The key of one direction: epoch 0 of the handshake (TLS 1.3), 1 of data (TLS 1.2: Finished too). 1 if the log has it. */
static CHECK_UNUSED int kit_tap_key(const kit_tap *t, kit_key *k, int server, int epoch)
{
    static const char *const labels[] = {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET",
                                         "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"};
    const kit_secret *s = kit_find_secret(t->v13 ? labels[2 * epoch + server] : "CLIENT_RANDOM", t->client_random);
    if (!s) return 0;
    if (t->v13) kit_key_13(k, t->suite, s->secret);
    else kit_key_12(k, t->suite, s->secret, t->client_random, t->server_random, server);
    return 1;
}

/* --- a connection with a listener on the wire ---------------------------------------------------------------------- */

typedef struct kit_wire {
    psocket_tls *tls[2];
    kit_ends ends;
    kit_tap tap;
    kit_key key[2];   /* of the client's direction and the server's, after what has passed */
    int sealed[2];    /* records are protected: 1 with handshake keys (TLS 1.3), 2 with those of data, -1 with unknown ones */
} kit_wire;

/* Takes note of the records in b, sent in the direction dir (0 by the client). What they hold in handshake messages is
   appended to messages unless that is NULL. */
static CHECK_UNUSED void kit_watch(kit_wire *w, int dir, const kit_bytes *b, kit_bytes *messages)
{
    static uint8_t plain[20000];
    size_t at = 0, len;
    int type;
    kit_look(&w->tap, b);
    for (; at + 5 <= b->n; at += len) {
        const uint8_t *p = b->p + at;
        ptrdiff_t n;
        len = 5 + kit_get(p + 3, 2);
        if (at + len > b->n || len > sizeof plain) return;
        if (p[0] == 20 && !w->tap.v13) w->sealed[dir] = kit_tap_key(&w->tap, &w->key[dir], dir, 1) ? 2 : -1;
        if (p[0] == 20) continue;
        if (w->sealed[dir] < 0) { /* the key is not in the log yet */
            w->key[dir].seq++;
            continue;
        }
        if (!w->sealed[dir] && p[0] == 23) w->sealed[dir] = kit_tap_key(&w->tap, &w->key[dir], dir, 0);
        if (!w->sealed[dir]) {
            n = (ptrdiff_t)len - 5;
            memcpy(plain, p + 5, (size_t)n);
            type = p[0];
        } else {
            n = kit_open(&w->key[dir], p, plain, &type);
            if (n < 0 && w->sealed[dir] == 1 && kit_tap_key(&w->tap, &w->key[dir], dir, 1)) {
                w->sealed[dir] = 2;
                n = kit_open(&w->key[dir], p, plain, &type);
            }
        }
        if (n > 0 && type == 22 && messages) kit_put(messages, plain, (size_t)n);
    }
}

static CHECK_UNUSED kit_end *kit_sender(kit_wire *w, int dir)
{
    return dir ? w->ends.server : w->ends.client;
}

/* Passes all that the sender of dir has sent. 1 if there was anything. */
static CHECK_UNUSED int kit_pass(kit_wire *w, int dir, kit_bytes *messages)
{
    static kit_bytes b;
    kit_end *to = kit_sender(w, !dir);
    kit_take(kit_sender(w, dir), &b);
    if (!b.n) return 0;
    kit_watch(w, dir, &b, messages);
    if (!to->closed) kit_feed(to, b.p, b.n);
    return 1;
}

/* Begins a connection with these settings, which it frees at its end. 1 if all is well so far. */
static CHECK_UNUSED int kit_wire_begin(kit_wire *w, psocket_tls *client, psocket_tls *server)
{
    memset(w, 0, sizeof *w);
    w->tls[0] = client;
    w->tls[1] = server;
    return client && server && kit_begin(&w->ends, client, server, "localhost");
}

/* Carries it on to its end. 1 if both are done, and then the keys are those of data. */
static CHECK_UNUSED int kit_wire_run(kit_wire *w)
{
    int rounds = 0, dir;
    while (kit_pass(w, 0, NULL) | kit_pass(w, 1, NULL) && rounds++ < 100) continue;
    for (dir = 0; dir < 2; dir++) {
        uint64_t seq = w->sealed[dir] < 0 ? w->key[dir].seq : 0;
        if (w->sealed[dir] == 2 || !kit_tap_key(&w->tap, &w->key[dir], dir, 1)) continue;
        w->key[dir].seq = seq;
        w->sealed[dir] = 2;
    }
    return w->ends.client->status == 0 && w->ends.server->status == 0 && w->sealed[0] == 2 && w->sealed[1] == 2;
}

/* The usual connection with one suite (NULL: the libraries' choice). */
static CHECK_UNUSED int kit_wire_join(kit_wire *w, const char *suite)
{
    return kit_wire_begin(w, kit_tls(NULL, suite, 0), kit_tls("ec", NULL, 0)) && CHECK(kit_wire_run(w));
}

static CHECK_UNUSED void kit_wire_end(kit_wire *w)
{
    kit_end_both(&w->ends);
    psocket_tls_free(w->tls[0]);
    psocket_tls_free(w->tls[1]);
    memset(w, 0, sizeof *w);
}

/* Gives the receiver of dir a record as if its peer had sent it. */
static CHECK_UNUSED void kit_forge(kit_wire *w, int dir, int type, const void *p, size_t n)
{
    static kit_bytes b;
    b.n = 0;
    kit_seal(&w->key[dir], &b, type, p, n, 0);
    kit_feed(kit_sender(w, !dir), b.p, b.n);
}

/* The next record that the sender of dir has sent: its plaintext's length, or -1 if there is none that its key opens. */
static CHECK_UNUSED ptrdiff_t kit_hear(kit_wire *w, int dir, uint8_t *plain, int *type)
{
    kit_end *h = kit_sender(w, dir);
    size_t len;
    ptrdiff_t n;
    psocket_flush(h->s);
    if (h->out.n < 5) return -1;
    len = 5 + kit_get(h->out.p + 3, 2);
    if (len > h->out.n) return -1;
    n = kit_open(&w->key[dir], h->out.p, plain, type);
    memmove(h->out.p, h->out.p + len, h->out.n - len);
    h->out.n -= len;
    return n;
}

/* The alert that it has sent, as level * 256 + number; -1 if there is none, or something else. */
static CHECK_UNUSED int kit_hear_alert(kit_wire *w, int dir)
{
    static uint8_t plain[20000];
    int type = 0;
    return kit_hear(w, dir, plain, &type) == 2 && type == 21 ? plain[0] * 256 + plain[1] : -1;
}

#endif /* KIT_H */
