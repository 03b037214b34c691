/* psocket_tls_export: the same bytes at both ends, others for other labels, contexts and connections; channel bindings. */
#include "tls/wire.h"


static ptrdiff_t both(kit_ends *p, const char *label, const void *context, size_t context_len, uint8_t *out, size_t n)
{
    uint8_t other[300];
    ptrdiff_t a = psocket_tls_export(p->client->s, label, context, context_len, out, n);
    ptrdiff_t b = psocket_tls_export(p->server->s, label, context, context_len, other, n);
    CHECK_INT(a, b);
    if (a > 0) CHECK_MEM(out, other, a);
    return a;
}

KIT_TEST(exporters, 30)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_ends p;
    uint8_t a[300], b[300];
    int round;
    REQUIRE(client && server);
    for (round = 0; round < 2; round++) {
        kit_shake(&p, client, server, "localhost", 100000);
        kit_talk(&p, NULL, NULL);
        CHECK_INT(both(&p, "EXPORTER-test", NULL, 0, a, 32), 32);
        CHECK_INT(both(&p, "EXPORTER-test", NULL, 0, b, 300), 300);
        if (kit_version == 0x0303) CHECK_MEM(a, b, 32); /* RFC 5705: a longer one begins alike */
        else CHECK(memcmp(a, b, 32) != 0);
        CHECK_INT(both(&p, "EXPORTER-other", NULL, 0, b, 32), 32);
        CHECK(memcmp(a, b, 32) != 0);
        CHECK_INT(both(&p, "EXPORTER-test", "", 0, b, 32), 32);
        if (kit_version == 0x0303) CHECK(memcmp(a, b, 32) != 0); /* an empty context is not none */
        else CHECK_MEM(a, b, 32);                                /* in TLS 1.3 it is (RFC 8446 7.5) */
        CHECK_INT(both(&p, "EXPORTER-test", "context", 7, b, 32), 32);
        CHECK(memcmp(a, b, 32) != 0);
        CHECK_INT(psocket_tls_export(p.client->s, NULL, NULL, 0, a, 32), PSOCKET_INVALID);
        CHECK_INT(psocket_tls_export(p.client->s, "x", NULL, 0, NULL, 32), PSOCKET_INVALID);
        kit_end_both(&p);
    }
    psocket_tls_free(client);
    psocket_tls_free(server);
}

/* What RFC 5705 4 and RFC 5929 do not let an exporter make. */
KIT_TEST(impossible, 30)
{
    static const char *const labels[] = {"client finished", "server finished", "master secret", "key expansion",
                                         "extended master secret"};
    static uint8_t context[65536], a[32];
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_ends p;
    size_t i;
    REQUIRE(client && server);
    kit_shake(&p, client, server, "localhost", 100000);
    kit_talk(&p, NULL, NULL);
    for (i = 0; i < sizeof labels / sizeof labels[0]; i++) CHECK_INT(both(&p, labels[i], NULL, 0, a, 32), PSOCKET_INVALID);
    CHECK_INT(both(&p, "", NULL, 0, a, 32), 32); /* no RFC's label, but OpenSSL and BoringSSL take it */
    CHECK_INT(both(&p, "tls-unique", NULL, 0, a, 32), PSOCKET_UNSUPPORTED);
    CHECK_INT(both(&p, "EXPORTER-test", NULL, 5, a, 32), PSOCKET_INVALID);
    CHECK_INT(both(&p, "EXPORTER-test", context, 65535, a, 32), 32);
    CHECK_INT(both(&p, "EXPORTER-test", context, 65536, a, 32), PSOCKET_INVALID);
    kit_end_both(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

KIT_TEST(channel_bindings, 30)
{
    static const char *const identities[] = {"ec", "rsa", "ec384", "pss"};
    size_t i;
    for (i = 0; i < 4; i++) {
        psocket_tls *client = kit_client(), *server = kit_server(identities[i]);
        kit_ends p;
        psocket_tlsinfo ci;
        uint8_t a[64], b[64], exporter[64];
        REQUIRE(client && server);
        kit_shake(&p, client, server, "localhost", 100000);
        kit_talk(&p, &ci, NULL);
        CHECK_INT(both(&p, "tls-server-end-point", NULL, 0, a, 64), 32); /* all these are signed with SHA-256 */
        CHECK_MEM(a, ci.peer_sha256, 32);
        CHECK_INT(both(&p, "tls-exporter", NULL, 0, b, 32), 32);
        CHECK_INT(both(&p, "EXPORTER-Channel-Binding", "", 0, exporter, 32), 32);
        CHECK_MEM(b, exporter, 32); /* RFC 9266 */
        kit_end_both(&p);
        kit_shake(&p, client, server, "localhost", 100000); /* resumed: another exporter; the end point needs the certificate */
        kit_talk(&p, &ci, NULL);
        CHECK_INT(ci.resumed, 1);
        CHECK_INT(both(&p, "tls-exporter", NULL, 0, exporter, 32), 32);
        CHECK(memcmp(b, exporter, 32) != 0);
        kit_end_both(&p);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* Only within a TLS connection, and not without extended master secret (RFC 7627 5.4): a server that does not know it. */
static void without_ems(void *ctx, kit_bytes *m)
{
    size_t at = kit_extension(m->p, m->n, 23);
    (void)ctx;
    if (at) m->p[at] = 0x7A; /* now something that nobody knows */
}

TEST(refused)
{
    kit_wire w;
    kit_end *h = NULL;
    uint8_t a[32];
    kit_editor e;
    psocket_tls *client, *server;
    kit_version = 0x0303;
    REQUIRE(!kit_plain(&h, PSOCKET_CLIENT));
    CHECK(psocket_tls_export(h->s, "x", NULL, 0, a, 32) < 0);
    kit_free(h);
    client = kit_client();
    server = kit_server("ec");
    REQUIRE(client && server);
    memset(&e, 0, sizeof e);
    e.edit = without_ems; /* the hello was changed, so that Finished fails; but the master secret is of the old kind */
    kit_play(&w, client, server, "localhost", &e);
    CHECK(w.ends.client_status < PSOCKET_WANT_WRITE && w.ends.server_status < PSOCKET_WANT_WRITE);
    CHECK(psocket_tls_export(w.ends.client->s, "x", NULL, 0, a, 32) < 0);
    kit_end_both(&w.ends);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

