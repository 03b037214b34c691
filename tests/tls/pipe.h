/* pipe.h - two handshakes joined in memory. Include it after check.h and the implementation. */
#ifndef PIPE_H
#define PIPE_H

typedef struct pipe_settings {
    psocket_tls_options opt;
    char *text[16]; /* files that opt points into */
    int texts;
    psocket_identity identities[8];
    psocket_error error;
} pipe_settings;

/* A file from the folder of certificates, NUL-terminated. Freed by pipe_done. */
static CHECK_UNUSED char *pipe_file(pipe_settings *s, const char *name)
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

static CHECK_UNUSED void pipe_ca(pipe_settings *s, const char *name)
{
    s->opt.ca = pipe_file(s, name);
    s->opt.ca_len = 0;
}

static CHECK_UNUSED void pipe_identity(pipe_settings *s, const char *cert, const char *key)
{
    size_t i = s->opt.identity_count;
    if (i >= 8) return;
    s->identities[i].chain = pipe_file(s, cert);
    s->identities[i].key = pipe_file(s, key);
    s->opt.identities = s->identities;
    s->opt.identity_count = i + 1;
}

/* Makes the settings; NULL and a recorded failure if that is not possible. */
static CHECK_UNUSED psocket_tls *pipe_make(pipe_settings *s)
{
    psocket_tls *tls = NULL;
    s->opt.error = &s->error;
    if (psocket_tls_new(&tls, &s->opt)) check_fail(__FILE__, __LINE__, "psocket_tls_new: %s", s->error.text);
    return tls;
}

static CHECK_UNUSED void pipe_done(pipe_settings *s)
{
    while (s->texts) free(s->text[--s->texts]);
    memset(s, 0, sizeof *s);
}

/* The usual client: trusts ca.pem. */
static CHECK_UNUSED psocket_tls *pipe_client(void)
{
    pipe_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

/* A server with one identity, and trust in ca.pem for clients' certificates. */
static CHECK_UNUSED psocket_tls *pipe_server(const char *name)
{
    pipe_settings s;
    psocket_tls *tls;
    char cert[64], key[64];
    memset(&s, 0, sizeof s);
    snprintf(cert, sizeof cert, "%s.pem", name);
    snprintf(key, sizeof key, "%s.key", name);
    pipe_ca(&s, "ca.pem");
    pipe_identity(&s, cert, key);
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

/* Moves up to max bytes of from's output to to. 1 if anything moved. */
static CHECK_UNUSED int pipe_move(psi_hs *from, psi_hs *to, size_t max)
{
    const uint8_t *p;
    size_t n = psi_hs_output(from, &p);
    uint8_t *copy;
    if (n > max) n = max;
    if (!n) return 0;
    copy = (uint8_t *)malloc(n); /* exactly as long, so that a sanitizer sees any over-read */
    memcpy(copy, p, n);
    psi_hs_feed(to, copy, n);
    free(copy);
    psi_hs_sent(from, n);
    return 1;
}

/* Runs both to their ends, step bytes at a time. */
static CHECK_UNUSED void pipe_run(psi_hs *c, psi_hs *s, size_t step)
{
    long rounds = 0;
    int moved = 1;
    while (moved && rounds++ < 2000000) {
        moved = pipe_move(c, s, step);
        moved |= pipe_move(s, c, step);
    }
    CHECK(rounds < 2000000);
}

typedef struct pipe_ends {
    psi_hs *client, *server;
    psocket_error client_error, server_error;
    int client_status, server_status;
} pipe_ends;

/* A handshake from start to end. */
static CHECK_UNUSED void pipe_shake(pipe_ends *p, psocket_tls *client, psocket_tls *server, const char *name, size_t step)
{
    psocket_error e = {0};
    memset(p, 0, sizeof *p);
    if (psi_hs_new(&p->client, client, 0, name, 0, &e) || psi_hs_new(&p->server, server, 1, NULL, 0, &e)) {
        check_fail(__FILE__, __LINE__, "psi_hs_new: %s", e.text);
        p->client_status = p->server_status = PSOCKET_NOMEM;
        return;
    }
    pipe_run(p->client, p->server, step);
    p->client_status = psi_hs_status(p->client, &p->client_error);
    p->server_status = psi_hs_status(p->server, &p->server_error);
}

static CHECK_UNUSED void pipe_end(pipe_ends *p)
{
    psi_hs_free(p->client);
    psi_hs_free(p->server);
    memset(p, 0, sizeof *p);
}

/* Sends text from one record layer to the other and compares. */
static CHECK_UNUSED void pipe_say(psi_rec *from, psi_rec *to, const char *text)
{
    uint8_t buf[17000];
    uint8_t *p = buf + PSI_REC_HEAD;
    size_t n = strlen(text);
    psi_rec_in in;
    psocket_error e = {0};
    memcpy(p, text, n);
    p = psi_rec_seal(from, PSI_REC_APPDATA, p, &n);
    CHECK(p >= buf);
    CHECK(p + n <= buf + PSI_REC_HEAD + strlen(text) + PSI_REC_TAIL);
    CHECK_INT(psi_rec_open(to, p, n - 1, &in, &e), PSI_REC_MORE);
    CHECK_INT(in.used, n);
    if (!CHECK_INT(psi_rec_open(to, p, n, &in, &e), PSI_REC_DATA)) return;
    CHECK_INT(in.used, n);
    CHECK_INT(in.len, strlen(text));
    CHECK_MEM(in.data, text, strlen(text));
}

/* Both ends succeeded: takes the record layers, talks both ways, and stores what was agreed. */
static CHECK_UNUSED void pipe_talk(pipe_ends *p, psocket_tlsinfo *client, psocket_tlsinfo *server)
{
    psi_rec *cr = NULL, *sr = NULL;
    psi_tlsinfo *ci = NULL, *si = NULL;
    if (!CHECK_INT(p->client_status, 0)) check_fail(__FILE__, __LINE__, "client: %s", p->client_error.text);
    if (!CHECK_INT(p->server_status, 0)) check_fail(__FILE__, __LINE__, "server: %s", p->server_error.text);
    if (p->client_status || p->server_status) return;
    CHECK_INT(psi_hs_finish(p->client, &cr, &ci), 0);
    CHECK_INT(psi_hs_finish(p->server, &sr, &si), 0);
    pipe_end(p);
    pipe_say(cr, sr, "question");
    pipe_say(sr, cr, "answer");
    pipe_say(cr, sr, "thanks");
    if (client) psi_tlsinfo_get(ci, client);
    if (server) psi_tlsinfo_get(si, server);
    psi_rec_free(cr);
    psi_rec_free(sr);
    psi_tlsinfo_free(ci);
    psi_tlsinfo_free(si);
}

/* A whole handshake that must succeed. */
static CHECK_UNUSED void pipe_good(psocket_tls *client, psocket_tls *server, const char *name, size_t step,
                                   psocket_tlsinfo *ci, psocket_tlsinfo *si)
{
    pipe_ends p;
    pipe_shake(&p, client, server, name, step);
    pipe_talk(&p, ci, si);
    pipe_end(&p);
}

/* A whole handshake that must fail with these codes; alert was sent by the side whose code is not TLS_ALERT. */
static CHECK_UNUSED void pipe_bad(psocket_tls *client, psocket_tls *server, const char *name, int client_code,
                                  int server_code, int alert)
{
    pipe_ends p;
    pipe_shake(&p, client, server, name, 512);
    if (!CHECK_INT(p.client_status, client_code)) check_fail(__FILE__, __LINE__, "client: %s", p.client_error.text);
    if (!CHECK_INT(p.server_status, server_code)) check_fail(__FILE__, __LINE__, "server: %s", p.server_error.text);
    CHECK_INT(p.client_error.tls_alert, alert);
    CHECK_INT(p.server_error.tls_alert, alert);
    CHECK(p.client_error.text[0] && p.server_error.text[0]);
    pipe_end(&p);
}

/* --- bytes on the wire ------------------------------------------------------------------------------------------- */

typedef struct pipe_bytes {
    uint8_t p[40000];
    size_t n;
} pipe_bytes;

static CHECK_UNUSED void pipe_put(pipe_bytes *b, const void *p, size_t n)
{
    if (b->n + n > sizeof b->p) {
        check_fail(__FILE__, __LINE__, "pipe_bytes is full");
        return;
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}

static CHECK_UNUSED void pipe_number(pipe_bytes *b, size_t value, size_t bytes)
{
    while (bytes--) {
        uint8_t c = (uint8_t)(value >> 8 * bytes);
        pipe_put(b, &c, 1);
    }
}

/* All output of h, taken away. */
static CHECK_UNUSED void pipe_take(psi_hs *h, pipe_bytes *b)
{
    const uint8_t *p;
    size_t n;
    b->n = 0;
    while ((n = psi_hs_output(h, &p)) != 0) {
        pipe_put(b, p, n);
        psi_hs_sent(h, n);
    }
}

/* Feeds a copy that is exactly as long. */
static CHECK_UNUSED size_t pipe_feed(psi_hs *h, const void *p, size_t n)
{
    uint8_t *copy = (uint8_t *)malloc(n ? n : 1);
    ptrdiff_t used;
    if (n) memcpy(copy, p, n);
    used = psi_hs_feed(h, copy, n);
    free(copy);
    return (size_t)used;
}

static CHECK_UNUSED void pipe_record(pipe_bytes *b, int type, const void *p, size_t n)
{
    pipe_number(b, (size_t)type, 1);
    pipe_number(b, 0x0303, 2);
    pipe_number(b, n, 2);
    pipe_put(b, p, n);
}

/* The alert in b, as level * 256 + number, -1 if its last record is not one in plaintext. */
static CHECK_UNUSED int pipe_alert(const pipe_bytes *b)
{
    const uint8_t *p = b->p;
    size_t n = b->n;
    while (n >= 5) {
        size_t len = 5 + ((size_t)p[3] << 8 | p[4]);
        if (len == n) return p[0] == 21 && n == 7 ? p[5] * 256 + p[6] : -1;
        if (len > n) break;
        p += len;
        n -= len;
    }
    return -1;
}

/* The payloads of the plaintext handshake records at the beginning of b; *rest is where they end. */
static CHECK_UNUSED void pipe_messages(const pipe_bytes *b, pipe_bytes *out, size_t *rest)
{
    size_t i = 0;
    out->n = 0;
    while (i + 5 <= b->n && b->p[i] == 22) {
        size_t len = (size_t)b->p[i + 3] << 8 | b->p[i + 4];
        pipe_put(out, b->p + i + 5, len);
        i += 5 + len;
    }
    if (rest) *rest = i;
}

/* Where message number k begins in m, and its length with its header; 0 if there is none. */
static CHECK_UNUSED size_t pipe_message(const pipe_bytes *m, int k, size_t *at)
{
    size_t i = 0;
    while (i + 4 <= m->n) {
        size_t len = 4 + ((size_t)m->p[i + 1] << 16 | (size_t)m->p[i + 2] << 8 | m->p[i + 3]);
        if (i + len > m->n) return 0;
        *at = i;
        if (!k--) return len;
        i += len;
    }
    return 0;
}

/* h must have failed with this code and have put this alert (in plaintext) into its output. */
static CHECK_UNUSED void pipe_failed(psi_hs *h, int code, int alert, const char *what)
{
    psocket_error e = {0};
    pipe_bytes b;
    int status = psi_hs_status(h, &e);
    pipe_take(h, &b);
    if (status != code) check_fail(__FILE__, __LINE__, "%s: status %d (%s), not %d", what, status, e.text, code);
    if (e.tls_alert != alert) check_fail(__FILE__, __LINE__, "%s: alert %d in the error, not %d", what, e.tls_alert, alert);
    if (pipe_alert(&b) != 512 + alert) check_fail(__FILE__, __LINE__, "%s: alert %d on the wire, not %d", what, pipe_alert(&b), 512 + alert);
    if (status == code && !e.text[0]) check_fail(__FILE__, __LINE__, "%s: no text", what);
}

/* A handshake's state, to go back to. */
typedef struct pipe_state {
    psi_hs hs;
} pipe_state;

static CHECK_UNUSED void pipe_save(const psi_hs *h, pipe_state *s)
{
    memcpy(&s->hs, h, sizeof *h);
}

/* Back to that state: before the peer's certificates came, or after. */
static CHECK_UNUSED void pipe_restore(psi_hs *h, pipe_state *s)
{
    if (h->chain.certs != s->hs.chain.certs) psi_x509_chain_free(&h->chain);
    psi_free(h->cert);
    s->hs.out = h->out;
    s->hs.out_cap = h->out_cap;
    memcpy(h, &s->hs, sizeof *h);
}

#endif
