/* kit.h - what the TLS tests share: certificates, settings, two sockets joined in memory, bytes on the wire, and the
 * secrets of the key log (tls/wire.h opens and seals records with them). It includes check.h and the implementation, with hooks for the tests:
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
#ifdef KIT_FUZZ /* a fuzzer has its own main */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define CHECK_UNUSED __attribute__((unused))
#define CHECK(cond) kit_must((cond) ? 1 : 0)
#define CHECK_INT(got, want) kit_must((long long)(got) == (long long)(want))
#define CHECK_MEM(got, want, n) kit_must(!memcmp(got, want, n))
#define REQUIRE(cond) CHECK(cond)
#define check_fail(...) abort()
#define check_certs() "build/certs"
static CHECK_UNUSED int kit_must(int ok)
{
    if (!ok) abort();
    return ok;
}
#else
#include "check.h"
#endif
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

static CHECK_UNUSED void kit_versions(kit_settings *s)
{
    if (kit_version && !s->opt.min_version && !s->opt.max_version) s->opt.min_version = s->opt.max_version = kit_version;
}

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
#define KIT_TEST_13(name, seconds) \
    TEST_LIMIT(name##_13, seconds) \
    { \
        kit_version = 0x0304; \
        name(); \
    }

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
    if (i->version == 0x0304) name = i->sigalg_name;
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

/* A nonblocking socket without TLS; 0 or psocket_open's error. */
static CHECK_UNUSED int kit_plain(kit_end **out, int side)
{
    static const psocket_transport transport = {kit_transport_get, kit_transport_put, kit_transport_finish,
                                                kit_transport_close, kit_transport_wants};
    kit_end *h = (kit_end *)calloc(1, sizeof *h);
    psocket_options o = {0};
    int code;
    o.nonblocking = 1;
    if (!h) abort();
    code = psocket_open(&h->s, &transport, h, side, &o);
    if (code) free(h);
    else *out = h;
    return code;
}

/* Carries the handshake on. */
static CHECK_UNUSED int kit_turn(kit_end *h)
{
    if (h->status == PSOCKET_WANT_READ || h->status == PSOCKET_WANT_WRITE) h->status = psocket_step(h->s);
    if (h->status == PSOCKET_WANT_WRITE) h->status = PSOCKET_WANT_READ;
    return h->status;
}

static CHECK_UNUSED void kit_free(kit_end *h)
{
    if (!h) return;
    psocket_free(h->s);
    free(h);
}

/* Begins a handshake. 0, or what psocket_starttls said, with details in *e (may be NULL), and then there is no end. */
static CHECK_UNUSED int kit_new(kit_end **out, psocket_tls *tls, int side, const char *name, psocket_error *e)
{
    int code;
    kit_end *h;
    *out = NULL;
    code = kit_plain(&h, side);
    if (code) return code;
    code = h->status = psocket_starttls(h->s, tls, name);
    if (code == PSOCKET_WANT_READ || code == PSOCKET_WANT_WRITE) {
        kit_turn(h);
        *out = h;
        return 0;
    }
    if (e) psocket_geterror(h->s, e);
    kit_free(h);
    return code;
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
    (void)what;
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
    for (i = kit_secret_count; i-- > 0 && i + 64 >= kit_secret_count;) { /* the newest: random numbers may come again */
        const kit_secret *s = &kit_secrets[i % 64];
        if (!strcmp(s->label, label) && !memcmp(s->random, random, 32)) return s;
    }
    return NULL;
}

#endif /* KIT_H */
