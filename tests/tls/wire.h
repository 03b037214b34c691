/* wire.h - a listener on the wire between two sockets of kit.h, who knows the keys: it opens, changes, invents and seals
 * records and handshake messages of both versions. */
#ifndef WIRE_H
#define WIRE_H

#include "kit.h"
#include <bearssl.h>

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

#ifndef KIT_NAME
#define KIT_NAME "localhost"
#endif

typedef struct kit_wire {
    psocket_tls *tls[2];
    kit_ends ends;
    kit_tap tap;
    kit_key key[2];   /* of the client's direction and the server's, after what has passed */
    int sealed[2];    /* records are protected: 1 with handshake keys (TLS 1.3), 2 with those of data, -1 with unknown ones */
} kit_wire;

/* Opens the record at p, which the sender of dir has sent: its length in plain, and its type; -1 if no key does. From here
   on records may be under the next key. */
static CHECK_UNUSED ptrdiff_t kit_unwrap(kit_wire *w, int dir, const uint8_t *p, uint8_t *plain, int *type)
{
    ptrdiff_t n;
    if (p[0] == 20 && !w->tap.v13) w->sealed[dir] = kit_tap_key(&w->tap, &w->key[dir], dir, 1) ? 2 : -1;
    if (!w->sealed[dir] && p[0] == 23) w->sealed[dir] = kit_tap_key(&w->tap, &w->key[dir], dir, 0);
    if (p[0] == 20 || !w->sealed[dir]) {
        n = (ptrdiff_t)kit_get(p + 3, 2);
        memcpy(plain, p + 5, (size_t)n);
        *type = p[0];
        return n;
    }
    if (w->sealed[dir] < 0) { /* the key is not in the log yet */
        w->key[dir].seq++;
        return -1;
    }
    n = kit_open(&w->key[dir], p, plain, type);
    if (n >= 0 || w->sealed[dir] != 1 || !kit_tap_key(&w->tap, &w->key[dir], dir, 1)) return n;
    w->sealed[dir] = 2;
    return kit_open(&w->key[dir], p, plain, type);
}

/* Takes note of the records in b, sent in the direction dir (0 by the client). What they hold in handshake messages is
   appended to messages unless that is NULL. */
static CHECK_UNUSED void kit_watch(kit_wire *w, int dir, const kit_bytes *b, kit_bytes *messages)
{
    static uint8_t plain[20000];
    size_t at = 0, len;
    int type;
    kit_look(&w->tap, b);
    for (; at + 5 <= b->n; at += len) {
        ptrdiff_t n;
        len = 5 + kit_get(b->p + at + 3, 2);
        if (at + len > b->n || len > sizeof plain) return;
        n = kit_unwrap(w, dir, b->p + at, plain, &type);
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
    return client && server && kit_begin(&w->ends, client, server, KIT_NAME);
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

/* --- changing what passes ------------------------------------------------------------------------------------------- */

/* How messages are passed on. Zero: as they are, each in a record of its own. */
typedef struct kit_editor {
    int dir, index;                           /* which message: the index-th handshake message of this direction */
    void (*edit)(void *ctx, kit_bytes *m);    /* changes it, header and all; what it leaves goes on in its place */
    void *ctx;
    size_t split;                             /* records of so many bytes; 0: as large as they may be */
    int together;                             /* all messages that may share a record do */
    int types[2][40];                         /* out: the types that have passed, by direction */
    size_t lengths[2][40];
    int count[2];
    int done;                                 /* out: it was edited */
} kit_editor;

typedef struct kit_relay {
    kit_bytes in, out, part; /* of the messages: what is not whole; what goes out; what waits for company */
    int sealed;              /* the key that part belongs to */
} kit_relay;

/* Puts messages into records of the direction's present key. */
static CHECK_UNUSED void kit_relay_flush(kit_relay *r, const kit_editor *e, kit_key *key)
{
    size_t most = e->split ? e->split : 16384, i, n;
    for (i = 0; i < r->part.n; i += n) {
        n = r->part.n - i < most ? r->part.n - i : most;
        if (r->sealed) kit_seal(key, &r->out, 22, r->part.p + i, n, 0);
        else kit_record(&r->out, 22, r->part.p + i, n);
    }
    r->part.n = 0;
}

static kit_relay kit_relays[2];
static kit_key kit_send[2];

static CHECK_UNUSED void kit_relay_message(int dir, kit_editor *e)
{
    static kit_bytes m;
    kit_relay *r = &kit_relays[dir];
    size_t len = 4 + kit_get(r->in.p + 1, 3);
    int i = e->count[dir]++;
    m.n = 0;
    kit_put(&m, r->in.p, len);
    memmove(r->in.p, r->in.p + len, r->in.n - len);
    r->in.n -= len;
    if (i < 40) {
        e->types[dir][i] = m.p[0];
        e->lengths[dir][i] = len;
    }
    if (e->edit && dir == e->dir && i == e->index) {
        e->edit(e->ctx, &m);
        e->done = 1;
    }
    kit_put(&r->part, m.p, m.n);
    if (!e->together) kit_relay_flush(r, e, &kit_send[dir]);
}

/* Passes what the sender of dir has sent, opened, edited and sealed again. 1 if there was anything. */
static CHECK_UNUSED int kit_relay_pass(kit_wire *w, int dir, kit_editor *e)
{
    static kit_bytes b;
    static uint8_t plain[20000];
    kit_relay *r = &kit_relays[dir];
    kit_end *to = kit_sender(w, !dir);
    size_t at, len;
    kit_take(kit_sender(w, dir), &b);
    if (!b.n) return 0;
    kit_look(&w->tap, &b);
    r->out.n = 0;
    for (at = 0; at + 5 <= b.n; at += len) {
        int type, was = w->sealed[dir];
        ptrdiff_t n;
        len = 5 + kit_get(b.p + at + 3, 2);
        n = kit_unwrap(w, dir, b.p + at, plain, &type);
        if (n < 0) {
            kit_put(&r->out, b.p + at, len); /* under a key that is not in the log: as it is */
            continue;
        }
        if (w->sealed[dir] != was || type != 22) kit_relay_flush(r, e, &kit_send[dir]);
        if (w->sealed[dir] != was) {
            kit_send[dir] = w->key[dir];
            kit_send[dir].seq = 0;
        }
        r->sealed = w->sealed[dir];
        if (type != 22) {
            if (type == 20 || !r->sealed) kit_record(&r->out, type, plain, (size_t)n);
            else kit_seal(&kit_send[dir], &r->out, type, plain, (size_t)n, 0);
            continue;
        }
        kit_put(&r->in, plain, (size_t)n);
        while (r->in.n >= 4 && r->in.n >= 4 + kit_get(r->in.p + 1, 3)) kit_relay_message(dir, e);
    }
    kit_relay_flush(r, e, &kit_send[dir]);
    if (!to->closed) kit_feed(to, r->out.p, r->out.n);
    return 1;
}

/* Carries a connection that has just begun on with an editor in between, until nothing moves any more. The results are in
   w->ends. */
static CHECK_UNUSED void kit_play_on(kit_wire *w, kit_editor *e)
{
    int rounds = 0;
    memset(kit_relays, 0, sizeof kit_relays);
    e->count[0] = e->count[1] = e->done = 0;
    while (kit_relay_pass(w, 0, e) | kit_relay_pass(w, 1, e) && rounds++ < 100) continue;
    w->ends.client_status = kit_status(w->ends.client, &w->ends.client_error);
    w->ends.server_status = kit_status(w->ends.server, &w->ends.server_error);
}

/* The same from the beginning. The settings stay the caller's. */
static CHECK_UNUSED void kit_play(kit_wire *w, psocket_tls *client, psocket_tls *server, const char *name, kit_editor *e)
{
    memset(w, 0, sizeof *w);
    if (kit_begin(&w->ends, client, server, name)) kit_play_on(w, e);
}

#endif /* WIRE_H */
