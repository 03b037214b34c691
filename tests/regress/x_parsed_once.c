/* A certificate is parsed once in a handshake, whoever asks what of it; a server parses its own when its settings are made,
 * however many clients come and whatever names they ask for. */
static unsigned long parses;
#define PSI_X509_PARSED() ((void)parses++)
#include "kit.h"

/* How many certificates a file has. */
static unsigned long sent(kit_settings *s, const char *name)
{
    unsigned long n = 0;
    const char *p;
    for (p = kit_file(s, name); p && (p = strstr(p, "-----BEGIN CERT")) != NULL; p++) n++;
    return n;
}

KIT_TEST(each_certificate_once, 60)
{
    psocket_tls *client = kit_client(), *server;
    kit_settings s = {0};
    unsigned long before;
    kit_ends p;
    int i;
    REQUIRE(client != NULL);
    kit_ca(&s, "ca.pem");
    kit_identity(&s, "rsa");
    kit_identity(&s, "ec");
    before = parses;
    server = kit_make(&s);
    REQUIRE(server != NULL);
    CHECK(parses - before >= 3); /* an anchor, two hosts */
    for (i = 0; i < 3; i++) {
        psocket_tlsinfo info;
        before = parses;
        REQUIRE(kit_begin(&p, client, server, "localhost"));
        kit_run(p.client, p.server, 16384);
        CHECK_INT(kit_status(p.client, NULL), 0);
        CHECK_INT(kit_status(p.server, NULL), 0);
        CHECK_INT(psocket_gettlsinfo(p.client->s, &info), 0);
        CHECK_INT(parses - before, info.resumed ? 0 : sent(&s, "ec.pem"));
        kit_free(p.client);
        kit_free(p.server);
    }
    psocket_tls_free(server);
    psocket_tls_free(client);
    kit_done(&s);
}

/* Many identities, many names: no ClientHello costs a parse. */
KIT_TEST(no_identity_for_a_hello, 60)
{
    static const char *const names[] = {"localhost", "a.wild.test", "nobody.test", "wrong.test"};
    psocket_tls *server;
    kit_settings s = {0}, c = {0};
    psocket_tls *client;
    kit_ends p;
    size_t i;
    for (i = 0; i < 4; i++) kit_identity(&s, i & 1 ? "ec" : i ? "wrong" : "rsa");
    server = kit_make(&s);
    kit_ca(&c, "ca.pem");
    c.opt.insecure_no_verify = 1;
    client = kit_make(&c);
    REQUIRE(server != NULL && client != NULL);
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        unsigned long before = parses;
        REQUIRE(kit_begin(&p, client, server, names[i]));
        CHECK(kit_move(p.client, p.server, 16384)); /* the hello alone */
        CHECK_INT(parses - before, 0);
        kit_run(p.client, p.server, 16384);
        CHECK_INT(kit_status(p.client, NULL), 0);
        CHECK_INT(parses - before, sent(&s, "rsa.pem"));
        kit_free(p.client);
        kit_free(p.server);
    }
    psocket_tls_free(server);
    psocket_tls_free(client);
    kit_done(&s);
    kit_done(&c);
}

/* A client's certificate too. */
KIT_TEST(with_client_certificates, 60)
{
    psocket_tls *client = kit_tls("client", NULL, 0), *server = kit_tls("rsa", NULL, PSOCKET_CLIENT_AUTH_REQUIRED);
    unsigned long before = parses;
    psocket_tlsinfo info;
    kit_settings s = {0};
    kit_ends p;
    REQUIRE(client != NULL && server != NULL && kit_begin(&p, client, server, "localhost"));
    kit_run(p.client, p.server, 16384);
    CHECK_INT(kit_status(p.server, NULL), 0);
    CHECK_INT(psocket_gettlsinfo(p.server->s, &info), 0);
    CHECK_STR(info.peer_subject, "CN=psocket test client");
    CHECK_INT(parses - before, sent(&s, "rsa.pem") + sent(&s, "client.pem"));
    kit_free(p.client);
    kit_free(p.server);
    psocket_tls_free(server);
    psocket_tls_free(client);
    kit_done(&s);
}
