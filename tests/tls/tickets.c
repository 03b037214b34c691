/* Tickets of both versions: how many, under which keys, once only, for whom, how long; and what a client's certificate has
 * to do with them. */
#include "tls/wire.h"


typedef struct setup {
    const uint8_t *keys;
    size_t key_count;
    int tickets, cache, client_auth;
    const char *identity, *ca;
} setup;

static psocket_tls *server_of(const setup *x)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, x->ca ? x->ca : "ca.pem");
    kit_identity(&s, x->identity ? x->identity : "ec");
    s.opt.clock = kit_clock;
    s.opt.ticket_keys = x->keys;
    s.opt.ticket_key_count = x->key_count;
    s.opt.tickets = x->tickets;
    s.opt.session_cache = x->cache;
    s.opt.client_auth = x->client_auth;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

static psocket_tls *client_of(const char *identity)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.clock = kit_clock;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

static int resumes(psocket_tls *client, psocket_tls *server, const char *name)
{
    psocket_tlsinfo ci, si;
    kit_good(client, server, name, 100000, &ci, &si);
    CHECK_INT(ci.resumed, si.resumed);
    return ci.resumed;
}

static uint8_t keys[96];

static void begin(void)
{
    size_t i;
    kit_time = (int64_t)time(NULL);
    for (i = 0; i < sizeof keys; i++) keys[i] = (uint8_t)(i * 37 + i / 32);
}

/* A fleet shares keys: what one server gave, another takes, without a cache. */
KIT_TEST(a_fleet_shares_keys, 20)
{
    setup a = {keys, 1, 0, -1, 0, NULL, NULL}, b = {keys + 32, 2, 0, -1, 0, NULL, NULL}, c = {keys, 2, 0, -1, 0, NULL, NULL};
    psocket_tls *first, *second, *third, *client;
    begin();
    first = server_of(&a);  /* key 0 */
    second = server_of(&b); /* keys 1 and 2 */
    third = server_of(&c);  /* keys 0 and 1: knows those of both */
    client = client_of(NULL);
    REQUIRE(first && second && third && client);
    CHECK_INT(resumes(client, first, "localhost"), 0);
    CHECK_INT(resumes(client, first, "localhost"), 1);
    CHECK_INT(resumes(client, third, "localhost"), 1);
    CHECK_INT(resumes(client, first, "localhost"), 1);
    CHECK_INT(resumes(client, second, "localhost"), 0); /* does not know the key */
    CHECK_INT(resumes(client, third, "localhost"), 1);
    psocket_tls_free(first);
    psocket_tls_free(second);
    psocket_tls_free(third);
    psocket_tls_free(client);
}

/* 300 returning clients: 1.2 with IDs alone would remember 256. */
KIT_TEST(as_many_as_come_back, 120)
{
    setup a = {NULL, 0, 0, 0, 0, NULL, NULL};
    enum { CLIENTS = 300 };
    static psocket_tls *clients[CLIENTS];
    psocket_tls *server;
    int i, resumed = 0;
    begin();
    server = server_of(&a);
    REQUIRE(server);
    for (i = 0; i < CLIENTS; i++) CHECK_INT(resumes(clients[i] = client_of(NULL), server, "localhost"), 0);
    for (i = 0; i < CLIENTS; i++) {
        resumed += resumes(clients[i], server, "localhost");
        psocket_tls_free(clients[i]);
    }
    CHECK_INT(resumed, CLIENTS);
    psocket_tls_free(server);
}

static int count_type(int tickets, int type)
{
    setup a = {NULL, 0, 0, 0, 0, NULL, NULL};
    kit_wire w;
    kit_editor e;
    int n = 0, i;
    psocket_tls *server, *client = client_of(NULL);
    a.tickets = tickets;
    server = server_of(&a);
    memset(&e, 0, sizeof e);
    kit_play(&w, client, server, "localhost", &e);
    CHECK_INT(w.ends.client_status, 0);
    psocket_send(w.ends.server->s, "x", 1);
    psocket_flush(w.ends.server->s);
    while (kit_relay_pass(&w, 1, &e)) continue;
    for (i = 0; i < e.count[1] && i < 40; i++) n += e.types[1][i] == type;
    kit_end_both(&w.ends);
    psocket_tls_free(server);
    psocket_tls_free(client);
    return n;
}

KIT_TEST(how_many, 20)
{
    begin();
    CHECK_INT(count_type(0, 4), kit_version == 0x0304 ? 2 : 1);
    CHECK_INT(count_type(-1, 4), 0);
    CHECK_INT(count_type(1, 4), 1);
    CHECK_INT(count_type(5, 4), kit_version == 0x0304 ? 5 : 1);
}

/* No tickets and no cache: nothing is resumed. No tickets: TLS 1.2 has its session IDs. */
KIT_TEST(none_at_all, 20)
{
    setup none = {NULL, 0, -1, -1, 0, NULL, NULL}, ids = {NULL, 0, -1, 0, 0, NULL, NULL};
    psocket_tls *a, *b, *client;
    begin();
    a = server_of(&none);
    b = server_of(&ids);
    client = client_of(NULL);
    REQUIRE(a && b && client);
    CHECK_INT(resumes(client, a, "localhost"), 0);
    CHECK_INT(resumes(client, a, "localhost"), 0);
    CHECK_INT(resumes(client, b, "example.test"), 0);
    CHECK_INT(resumes(client, b, "example.test"), kit_version == 0x0303);
    psocket_tls_free(a);
    psocket_tls_free(b);
    psocket_tls_free(client);
}

static uint8_t ticket_seen[3][64];
static size_t ticket_len[3];
static int ticket_count;

static void note_ticket(void *ctx, kit_bytes *m)
{
    size_t at = kit_extension(m->p, m->n, 41);
    (void)ctx;
    if (!at || ticket_count >= 3) return;
    ticket_len[ticket_count] = kit_get(m->p + at + 6, 2);
    memcpy(ticket_seen[ticket_count++], m->p + at + 8, 64);
}

/* TLS 1.3: no ticket is sent twice, so that two connections cannot be linked by one. Settings: name, client certificates. */
TEST(once_only)
{
    setup a = {NULL, 0, 0, 0, 0, NULL, NULL};
    psocket_tls *server, *client;
    int i;
    kit_version = 0x0304;
    begin();
    server = server_of(&a);
    client = client_of(NULL);
    REQUIRE(server && client);
    CHECK_INT(resumes(client, server, "localhost"), 0); /* two tickets */
    ticket_count = 0;
    for (i = 0; i < 3; i++) { /* the connection breaks: no new tickets */
        kit_wire w;
        kit_editor e;
        memset(&e, 0, sizeof e);
        e.edit = note_ticket;
        kit_play(&w, client, server, "localhost", &e);
        CHECK_INT(e.done, 1);
        kit_end_both(&w.ends);
        kit_time++;
    }
    CHECK(ticket_count >= 2);
    CHECK(memcmp(ticket_seen[0], ticket_seen[1], 64) != 0);
    if (ticket_count > 2) CHECK(memcmp(ticket_seen[1], ticket_seen[2], 64) != 0 && memcmp(ticket_seen[0], ticket_seen[2], 64) != 0);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

/* For other names, under other policies, after other ways to prove oneself: a full handshake. */
KIT_TEST(for_the_same_only, 30)
{
    setup plain = {keys, 1, 0, -1, 0, NULL, NULL}, asks = {keys, 1, 0, -1, PSOCKET_CLIENT_AUTH_REQUIRED, NULL, NULL};
    setup strange = {keys, 1, 0, -1, PSOCKET_CLIENT_AUTH_REQUIRED, NULL, "other_ca.pem"};
    psocket_tls *open_server, *asking, *distrusting, *client, *alice;
    uint8_t saved[8192];
    ptrdiff_t n;
    kit_ends p;
    begin();
    open_server = server_of(&plain);
    asking = server_of(&asks);
    distrusting = server_of(&strange);
    client = client_of(NULL);
    alice = client_of("client");
    REQUIRE(open_server && asking && distrusting && client && alice);
    CHECK_INT(resumes(client, open_server, "localhost"), 0);
    CHECK_INT(resumes(client, open_server, "example.test"), 0);
    CHECK_INT(resumes(client, open_server, "localhost"), 1);
    kit_bad(client, asking, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, kit_version == 0x0304 ? 116 : 40); /* not by a ticket either */
    CHECK_INT(resumes(alice, asking, "localhost"), 0);
    CHECK_INT(resumes(alice, asking, "localhost"), 1);
    n = psocket_tls_savesessions(alice, saved, sizeof saved);
    REQUIRE(n > 0 && n < (ptrdiff_t)sizeof saved);
    kit_shake(&p, alice, distrusting, "localhost", 100000); /* whose trust has changed: verified anew, and refused */
    CHECK_INT(p.server_status, PSOCKET_CERT_UNTRUSTED);
    kit_end_both(&p);
    psocket_tls_free(open_server);
    psocket_tls_free(asking);
    psocket_tls_free(distrusting);
    psocket_tls_free(client);
    psocket_tls_free(alice);
}

/* A resumed session tells who the client is. */
KIT_TEST(the_identity_travels_inside, 20)
{
    setup asks = {NULL, 0, 0, -1, PSOCKET_CLIENT_AUTH_REQUIRED, NULL, NULL};
    psocket_tls *server, *alice;
    psocket_tlsinfo first, ci, si;
    int i;
    begin();
    server = server_of(&asks);
    alice = client_of("client");
    REQUIRE(server && alice);
    kit_good(alice, server, "localhost", 100000, &ci, &first);
    CHECK(first.peer_subject[0]);
    for (i = 0; i < 3; i++) {
        kit_good(alice, server, "localhost", 100000, &ci, &si);
        CHECK_INT(si.resumed, 1);
        CHECK_STR(si.peer_subject, first.peer_subject);
        CHECK_MEM(si.peer_sha256, first.peer_sha256, 32);
        CHECK_MEM(si.peer_spki_sha256, first.peer_spki_sha256, 32);
        CHECK_INT(si.peer_not_after, first.peer_not_after);
        CHECK_STR(si.server_name, "localhost");
    }
    kit_time = first.peer_not_after + 1; /* its certificate has expired, and so has the session */
    {
        kit_ends p;
        kit_shake(&p, alice, server, "localhost", 100000);
        CHECK(p.client_status || p.server_status);
        kit_end_both(&p);
    }
    psocket_tls_free(server);
    psocket_tls_free(alice);
}

/* Keys of the process are renewed every 12 hours, and good for as long again. Seven days are the most. */
KIT_TEST(age, 20)
{
    setup a = {NULL, 0, 0, -1, 0, NULL, NULL}, b = {keys, 1, 0, -1, 0, NULL, NULL};
    psocket_tls *server, *fixed, *client;
    begin();
    server = server_of(&a);
    fixed = server_of(&b);
    client = client_of(NULL);
    REQUIRE(server && fixed && client);
    CHECK_INT(resumes(client, server, "localhost"), 0);
    CHECK_INT(resumes(client, server, "localhost"), 1);
    kit_time += 6 * 3600;
    CHECK_INT(resumes(client, server, "localhost"), 1);
    kit_time += 3 * 86400;
    CHECK_INT(resumes(client, server, "localhost"), 0);
    CHECK_INT(resumes(client, fixed, "example.test"), 0);
    kit_time += 7 * 86400 + 1;
    CHECK_INT(resumes(client, fixed, "example.test"), 0);
    psocket_tls_free(server);
    psocket_tls_free(fixed);
    psocket_tls_free(client);
}

/* Every byte of a ticket counts: a changed one is a full handshake or (TLS 1.3, by the binder) a refusal, never a resumption. */
static size_t change_at;

static void change_ticket(void *ctx, kit_bytes *m)
{
    size_t at = kit_extension(m->p, m->n, kit_version == 0x0304 ? 41 : 35), len;
    (void)ctx;
    if (!at) return;
    len = kit_version == 0x0304 ? kit_get(m->p + at + 6, 2) : kit_get(m->p + at + 2, 2);
    at += kit_version == 0x0304 ? 8 : 4;
    if (change_at < len) m->p[at + change_at] ^= 1;
}

KIT_TEST(changed_tickets, 60)
{
    setup a = {keys, 1, 0, -1, 0, NULL, NULL};
    psocket_tls *server;
    size_t step;
    begin();
    server = server_of(&a);
    REQUIRE(server);
    for (step = 0; step < 200; step += step < 40 ? 1 : 7) {
        psocket_tls *client = client_of(NULL);
        kit_wire w;
        kit_editor e;
        psocket_tlsinfo info;
        REQUIRE(client);
        CHECK_INT(resumes(client, server, "localhost"), 0);
        memset(&e, 0, sizeof e);
        e.edit = change_ticket;
        change_at = step;
        kit_play(&w, client, server, "localhost", &e);
        memset(&info, 0, sizeof info);
        CHECK(w.ends.server_status != 0); /* the hello was changed: Finished or the binder tells */
        CHECK(psocket_gettlsinfo(w.ends.server->s, &info) || !info.resumed);
        kit_end_both(&w.ends);
        psocket_tls_free(client);
    }
    psocket_tls_free(server);
}

