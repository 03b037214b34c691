/* A handshake simulator: both sides in memory, settings, pieces and faults chosen by a sequence of numbers. Whatever happens
 * on the wire, both sides end soon, say why, and never agree on something that was not sent. KIT_RUNS=100000 (make fuzz) runs
 * more of them than the few hundred here; KIT_SEED=N begins elsewhere. A failure names the seed of its run. */
#include "tls/wire.h"

static uint64_t dice;

static size_t roll(size_t n)
{
    return (size_t)(kit_next(&dice) % n);
}

enum { NONE, FLIP, DROP, REPEAT, SWAP, CUT, INSERT, REPLAY, FAULTS };

typedef struct setting {
    psocket_tls *client, *server;
    int version, mutual;
} setting;

static setting settings[8];
static int setting_count;
static uint8_t old_flight[8000]; /* of an earlier connection */
static size_t old_flight_len;

static void prepare(void)
{
    int version, mutual;
    for (version = 0x0303; version <= 0x0304; version++) {
        for (mutual = 0; mutual < 2; mutual++) {
            setting *s = &settings[setting_count++];
            kit_version = version;
            s->version = version;
            s->mutual = mutual;
            s->server = kit_tls("ec", NULL, mutual ? PSOCKET_CLIENT_AUTH_REQUIRED : PSOCKET_CLIENT_AUTH_NONE);
            s->client = kit_server(mutual ? "client" : "ec");
        }
    }
}

/* Where a record begins in b, a random one; its length in *len. */
static size_t some_record(const kit_bytes *b, size_t *len)
{
    size_t at = 0, starts[64], n = 0;
    while (at + 5 <= b->n && n < 64) {
        starts[n++] = at;
        at += 5 + kit_get(b->p + at + 3, 2);
    }
    at = starts[roll(n)];
    *len = 5 + kit_get(b->p + at + 3, 2);
    if (at + *len > b->n) *len = b->n - at;
    return at;
}

/* Does this to a flight. 1 if it is still what its sender meant. */
static int spoil(kit_bytes *b, int fault)
{
    static kit_bytes copy;
    size_t at, len, other, other_len, k;
    copy = *b;
    at = some_record(b, &len);
    switch (fault) {
    case FLIP:
        b->p[roll(b->n)] ^= (uint8_t)(1 << roll(8));
        return 0;
    case DROP:
        memmove(b->p + at, b->p + at + len, b->n - at - len);
        b->n -= len;
        return 0;
    case REPEAT:
        copy.n = at + len;
        kit_put(&copy, b->p + at, b->n - at);
        *b = copy;
        return 0;
    case SWAP:
        other = some_record(b, &other_len);
        if (other <= at) return 1;
        copy.n = at;
        kit_put(&copy, b->p + other, other_len);
        kit_put(&copy, b->p + at + len, other - at - len);
        kit_put(&copy, b->p + at, len);
        kit_put(&copy, b->p + other + other_len, b->n - other - other_len);
        *b = copy;
        return 0;
    case CUT:
        b->n = roll(b->n);
        return 0;
    case INSERT:
        k = 1 + roll(40);
        copy.n = at;
        while (k--) kit_number(&copy, roll(256), 1);
        kit_put(&copy, b->p + at, b->n - at);
        *b = copy;
        return 0;
    case REPLAY:
        b->n = 0;
        kit_put(b, old_flight, old_flight_len);
        return 0;
    default: return 1;
    }
}

/* Lets to have b in random pieces. */
static void deliver(kit_end *to, const kit_bytes *b)
{
    size_t at, n, most = roll(3) ? 80000 : 1 + roll(40);
    for (at = 0; at < b->n && !to->closed; at += n) {
        n = 1 + roll(most);
        if (n > b->n - at) n = b->n - at;
        kit_feed(to, b->p + at, n);
    }
}

/* A result is a success, an error with words, or a wait for what never came. */
static void judge(const kit_end *h, const char *who, uint64_t seed)
{
    psocket_error e = {0};
    int code = kit_status(h, &e);
    if (code == 0 || code == PSOCKET_WANT_READ) return;
    if (e.code != code || !e.text[0]) check_fail(__FILE__, __LINE__, "seed %llu: %s: %d, but %d %s", (unsigned long long)seed, who, code, e.code, e.text);
}

static void one(uint64_t seed)
{
    static kit_bytes b;
    setting *s;
    kit_ends p;
    int fault, when, turn, whole = 1, quiet = 0, waits = 0;
    dice = seed;
    kit_seed(seed + 1);
    s = &settings[roll((size_t)setting_count)];
    fault = roll(4) ? (int)roll(FAULTS) : NONE;
    when = (int)roll(4);
    REQUIRE(kit_begin(&p, s->client, s->server, "localhost"));
    for (turn = 0; turn < 40 && quiet < 2; turn++) {
        kit_end *from = turn % 2 ? p.server : p.client, *to = turn % 2 ? p.client : p.server;
        kit_take(from, &b);
        if (!b.n) {
            quiet++;
            continue;
        }
        quiet = 0;
        if (turn == when && fault) whole = spoil(&b, fault);
        if (b.n <= sizeof old_flight && !roll(4)) memcpy(old_flight, b.p, old_flight_len = b.n);
        deliver(to, &b);
    }
    judge(p.client, "client", seed);
    judge(p.server, "server", seed);
    waits = p.client->status == PSOCKET_WANT_READ || p.server->status == PSOCKET_WANT_READ;
    if (whole && (p.client->status || p.server->status)) {
        psocket_error ce = {0}, se = {0};
        kit_status(p.client, &ce);
        kit_status(p.server, &se);
        check_fail(__FILE__, __LINE__, "seed %llu: nothing was wrong, and yet %d %s, %d %s", (unsigned long long)seed, p.client->status, ce.text, p.server->status, se.text);
    }
    if (!p.client->status && !p.server->status) { /* then they can talk, or notice what was done to the last flight */
        const void *data;
        ptrdiff_t n;
        psocket_send(p.client->s, "ping", 4);
        psocket_flush(p.client->s);
        kit_move(p.client, p.server, 80000);
        n = psocket_recv(p.server->s, &data);
        if (n == 4) CHECK_MEM(data, "ping", 4);
        else if (whole) check_fail(__FILE__, __LINE__, "seed %llu: %ld", (unsigned long long)seed, (long)n);
        CHECK(n == 4 || n < 0);
    }
    if (waits) { /* the stream ends: now they know */
        kit_eof(p.client);
        kit_eof(p.server);
        CHECK(p.client->status != PSOCKET_WANT_READ && p.server->status != PSOCKET_WANT_READ);
    }
    kit_end_both(&p);
}

TEST_LIMIT(simulator, 3600)
{
    const char *runs = getenv("KIT_RUNS"), *start = getenv("KIT_SEED");
    uint64_t seed = start ? strtoull(start, NULL, 10) : 1;
    long n = runs ? atol(runs) : 400, i;
    prepare();
    for (i = 0; i < n && !check_shared->failures; i++) one(seed + (uint64_t)i);
    for (i = 0; i < setting_count; i++) {
        psocket_tls_free(settings[i].client);
        psocket_tls_free(settings[i].server);
    }
}
