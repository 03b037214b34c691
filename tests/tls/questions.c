/* PSOCKET_WANT_DECISION and PSOCKET_WANT_SIGNATURE: asked once, at the right time, of either role and version; answers of all
 * kinds; and keys that another process holds. */
#include "tls/wire.h"

#include <sys/socket.h>

/* Settings of either role: identity as asked for (ask: by signature), decisions or not. */
static psocket_tls *make(const char *identity, int ask, int decide, int client_auth, const char *sigalgs)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    if (identity && ask) {
        s.identities[0].key = NULL;
        s.identities[0].ask = 1;
    }
    s.opt.decide = decide;
    s.opt.client_auth = client_auth;
    s.opt.sigalgs = sigalgs;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* openssl makes the signature that q asks for with the key of this name. Its length, or 0. */
static size_t sign(const psocket_question *q, const char *identity, uint8_t *out, size_t max)
{
    char dir[] = "/tmp/psocket-sign-XXXXXX", path[128], command[1024];
    size_t n;
    FILE *f;
    int pss = strstr(q->scheme_name, "pss") != NULL;
    if (!mkdtemp(dir)) return 0;
    snprintf(path, sizeof path, "%s/digest", dir);
    f = fopen(path, "wb");
    if (!f) return 0;
    fwrite(q->digest, 1, q->digest_len, f);
    fclose(f);
    snprintf(command, sizeof command, "openssl pkeyutl -sign -inkey %s/%s.key -in %s/digest -out %s/sig -pkeyopt digest:%s%s%s", check_certs(),
             identity, dir, dir, q->hash_name, pss ? " -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest" : "",
             pss && strstr(q->scheme_name, "rsae") ? " -pkeyopt rsa_mgf1_md:" : "");
    if (pss && strstr(q->scheme_name, "rsae")) strcat(command, q->hash_name);
    strcat(command, " 2>/dev/null");
    n = system(command) == 0;
    snprintf(path, sizeof path, "%s/sig", dir);
    f = n ? fopen(path, "rb") : NULL;
    n = f ? fread(out, 1, max, f) : 0;
    if (f) fclose(f);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command)) return 0;
    return n;
}

static int asked[2], verdict;
static char scheme[64];
static int spoil; /* what is done to signatures: 0 nothing, 1 a byte less, 2 one more, 3 far too long, 4 a bit */

static size_t spoilt(uint8_t *sig, size_t n)
{
    if (spoil == 1) n--;
    if (spoil == 2) sig[n++] = 0;
    if (spoil == 3) n = 600;
    if (spoil == 4) sig[n / 2] ^= 1;
    return n;
}

/* Runs both to their ends; answers decisions with code and signatures with that identity's key (NULL: refuses). */
static void run(kit_ends *p, int code, const char *identity)
{
    int rounds = 0, moved = 1, i;
    asked[0] = asked[1] = 0;
    verdict = 1;
    while (moved && rounds++ < 1000) {
        moved = kit_move(p->client, p->server, 80000) | kit_move(p->server, p->client, 80000);
        for (i = 0; i < 2; i++) {
            kit_end *h = i ? p->server : p->client;
            psocket_question q;
            uint8_t sig[600] = {0};
            memset(&q, 0, sizeof q);
            if (h->status == PSOCKET_WANT_DECISION || h->status == PSOCKET_WANT_SIGNATURE) {
                CHECK_INT(psocket_step(h->s), h->status); /* it waits */
                CHECK_INT(psocket_wait(h->s, PSOCKET_READ, 0), PSOCKET_READ); /* and is ready: the application has to act */
                CHECK_INT(psocket_getquestion(h->s, &q), 0);
                CHECK_INT(q.kind, h->status);
            }
            if (h->status == PSOCKET_WANT_DECISION) {
                asked[0]++;
                verdict = q.verdict.code;
                CHECK(q.peer.subject && q.peer.subject[0] && q.peer.issuer && q.certificate_len > 100 && q.certificate[0] == 0x30);
                CHECK_INT(psocket_signed(h->s, "x", 1), PSOCKET_INVALID); /* that was not the question */
                CHECK_INT(psocket_decide(h->s, PSOCKET_WANT_READ), PSOCKET_INVALID); /* no error */
                CHECK_INT(psocket_decide(h->s, PSOCKET_WANT_DECISION), PSOCKET_INVALID);
                CHECK_INT(psocket_decide(h->s, -999), PSOCKET_INVALID);
                CHECK_INT(psocket_decide(h->s, code), 0);
                CHECK_INT(psocket_decide(h->s, code), PSOCKET_INVALID); /* answered already */
            } else if (h->status == PSOCKET_WANT_SIGNATURE) {
                size_t n = identity ? sign(&q, identity, sig, sizeof sig) : 0;
                asked[1]++;
                CHECK_INT(q.identity, 0);
                CHECK_INT(q.digest_len, strcmp(q.hash_name, "sha256") ? strcmp(q.hash_name, "sha384") ? 64 : 48 : 32);
                snprintf(scheme, sizeof scheme, "%s", q.scheme_name);
                CHECK_INT(psocket_decide(h->s, 0), PSOCKET_INVALID);
                CHECK_INT(psocket_signed(h->s, sig, n ? spoilt(sig, n) : 0), 0);
                CHECK_INT(psocket_signed(h->s, sig, n), PSOCKET_INVALID); /* answered already */
            } else {
                continue;
            }
            if (psocket_getquestion(h->s, &q) == 0) CHECK(q.kind != h->status); /* perhaps the next one already */
            h->status = PSOCKET_WANT_READ;
            kit_turn(h);
            moved = 1;
        }
    }
    p->client_status = kit_status(p->client, &p->client_error);
    p->server_status = kit_status(p->server, &p->server_error);
}

KIT_TEST(the_application_decides, 60)
{
    psocket_tls *good = kit_server("ec"), *bad = kit_server("untrusted"), *client = make(NULL, 0, 1, 0, NULL), *expired = kit_server("expired");
    kit_ends p;
    psocket_tlsinfo ci, si;
    REQUIRE(good && bad && client && expired);
    REQUIRE(kit_begin(&p, client, good, "localhost"));
    run(&p, PSOCKET_CERT_REJECTED, NULL); /* refused though it verifies */
    CHECK_INT(asked[0], 1);
    CHECK_INT(verdict, 0);
    CHECK_INT(p.client_status, PSOCKET_CERT_REJECTED);
    CHECK(p.client_error.tls_alert > 0 && p.client_error.text[0]);
    kit_end_both(&p);
    REQUIRE(kit_begin(&p, client, good, "localhost"));
    run(&p, 0, NULL);
    CHECK_INT(asked[0], 1);
    kit_talk(&p, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    kit_end_both(&p);
    REQUIRE(kit_begin(&p, client, good, "localhost")); /* the session is kept under the answer: not asked again */
    run(&p, PSOCKET_CERT_REJECTED, NULL);
    CHECK_INT(asked[0], 0);
    kit_talk(&p, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    kit_end_both(&p);
    REQUIRE(kit_begin(&p, client, bad, "localhost")); /* trust on first use */
    run(&p, 0, NULL);
    CHECK_INT(verdict, PSOCKET_CERT_UNTRUSTED);
    kit_talk(&p, &ci, &si);
    kit_end_both(&p);
    REQUIRE(kit_begin(&p, client, expired, "localhost"));
    run(&p, PSOCKET_CERT_EXPIRED, NULL);
    CHECK_INT(verdict, PSOCKET_CERT_EXPIRED);
    CHECK_INT(p.client_status, PSOCKET_CERT_EXPIRED);
    CHECK_INT(p.client_error.tls_alert, 45);
    CHECK(p.server_status == PSOCKET_TLS_ALERT || p.server_status == PSOCKET_WANT_READ);
    kit_end_both(&p);
    psocket_tls_free(good);
    psocket_tls_free(bad);
    psocket_tls_free(client);
    psocket_tls_free(expired);
}

/* A server decides on its clients. */
KIT_TEST(servers_decide, 30)
{
    psocket_tls *server = make("ec", 0, 1, PSOCKET_CLIENT_AUTH_REQUIRED, NULL), *alice = kit_server("client"), *stranger = kit_server("untrusted");
    kit_ends p;
    psocket_tlsinfo si;
    REQUIRE(server && alice && stranger);
    REQUIRE(kit_begin(&p, alice, server, "localhost"));
    run(&p, 0, NULL);
    CHECK_INT(asked[0], 1);
    CHECK_INT(verdict, 0);
    kit_talk(&p, NULL, &si);
    CHECK(si.peer_subject[0]);
    kit_end_both(&p);
    REQUIRE(kit_begin(&p, stranger, server, "localhost"));
    run(&p, 0, NULL);
    CHECK_INT(verdict, PSOCKET_CERT_UNTRUSTED);
    kit_talk(&p, NULL, &si);
    CHECK(si.peer_subject[0]);
    kit_end_both(&p);
    psocket_tls_free(server);
    psocket_tls_free(alice);
    psocket_tls_free(stranger);
}

/* A key that the library never sees. */
KIT_TEST(signatures_from_elsewhere, 60)
{
    static const struct { const char *identity, *sigalgs, *scheme; } kinds[] = {
        {"ec", NULL, "ecdsa_secp256r1_sha256"}, {"ec384", "ecdsa_secp384r1_sha384", "ecdsa_secp384r1_sha384"}, {"ec521", "ecdsa_secp521r1_sha512", "ecdsa_secp521r1_sha512"},
        {"rsa", "rsa_pss_rsae_sha256", "rsa_pss_rsae_sha256"}, {"rsa", "rsa_pss_rsae_sha512", "rsa_pss_rsae_sha512"}, {"pss", NULL, NULL},
        {"rsa", "rsa_pkcs1_sha256", "rsa_pkcs1_sha256"}, {"rsa", "rsa_pkcs1_sha384", "rsa_pkcs1_sha384"}};
    size_t i;
    if (system("openssl version > /dev/null 2>&1")) SKIP("openssl is not installed");
    for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        psocket_tls *client, *server;
        kit_ends p;
        if (i >= 6 && kit_version == 0x0304) continue;
        client = kit_client();
        server = make(kinds[i].identity, 1, 0, 0, kinds[i].sigalgs);
        REQUIRE(client && server);
        REQUIRE(kit_begin(&p, client, server, "localhost"));
        run(&p, 0, kinds[i].identity);
        CHECK_INT(asked[1], 1);
        if (kinds[i].scheme) CHECK_STR(scheme, kinds[i].scheme);
        kit_talk(&p, NULL, NULL);
        kit_end_both(&p);
        REQUIRE(kit_begin(&p, client, server, "localhost")); /* resumed: nothing to sign */
        run(&p, 0, NULL);
        CHECK_INT(asked[1], 0);
        kit_talk(&p, NULL, NULL);
        kit_end_both(&p);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
    {   /* a client's key; decision and signature in one handshake */
        psocket_tls *client = make("client_ec", 1, 1, 0, NULL), *server = kit_tls("ec", NULL, PSOCKET_CLIENT_AUTH_REQUIRED);
        kit_ends p;
        psocket_tlsinfo si;
        REQUIRE(client && server);
        REQUIRE(kit_begin(&p, client, server, "localhost"));
        run(&p, 0, "client_ec");
        CHECK_INT(asked[0], 1);
        CHECK_INT(asked[1], 1);
        kit_talk(&p, NULL, &si);
        CHECK(si.peer_subject[0]);
        kit_end_both(&p);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* A key that refuses, or a signature that is none of the certificate's key: it is not sent. An alert, a sentence, no crash. */
KIT_TEST(no_signature, 60)
{
    static const struct { const char *server, *client, *key; int spoil; } cases[] = {
        {"ec", NULL, NULL, 0}, {"ec", NULL, "client_ec", 0}, {"ec", NULL, "ec", 1}, {"ec", NULL, "ec", 2}, {"ec", NULL, "ec", 3},
        {"ec", NULL, "ec", 4}, {"rsa", NULL, "client", 0}, {"rsa", NULL, "rsa", 1}, {"rsa", NULL, "rsa", 2}, {"rsa", NULL, "rsa", 3},
        {"rsa", NULL, "rsa", 4}, {"ec", "client", "client", 1}, {"ec", "client", "rsa", 0}, {"ec", "client_ec", "client_ec", 4},
        {"ec", "client_ec", "ec", 0}, {"ec", "client", NULL, 0}};
    size_t i;
    if (system("openssl version > /dev/null 2>&1")) SKIP("openssl is not installed");
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int client_signs = cases[i].client != NULL;
        psocket_tls *client = make(cases[i].client, client_signs, 0, 0, NULL);
        psocket_tls *server = make(cases[i].server, !client_signs, 0, client_signs ? PSOCKET_CLIENT_AUTH_REQUIRED : 0, NULL);
        kit_ends p;
        const psocket_error *ours, *theirs;
        REQUIRE(client && server);
        REQUIRE(kit_begin(&p, client, server, "localhost"));
        spoil = cases[i].spoil;
        run(&p, 0, cases[i].key);
        spoil = 0;
        CHECK_INT(asked[1], 1);
        ours = client_signs ? &p.client_error : &p.server_error;
        theirs = client_signs ? &p.server_error : &p.client_error;
        CHECK_INT(client_signs ? p.client_status : p.server_status, PSOCKET_TLS_KEY);
        CHECK_INT(ours->tls_alert, 80); /* internal_error */
        CHECK(strstr(ours->text, cases[i].key ? "does not verify" : "did not sign"));
        CHECK_INT(client_signs ? p.server_status : p.client_status, PSOCKET_TLS_ALERT);
        CHECK_INT(theirs->tls_alert, 80);
        kit_end_both(&p);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* Closed, freed, or left with a question: nothing is lost. */
KIT_TEST(questions_left_open, 20)
{
    int how;
    for (how = 0; how < 3; how++) {
        psocket_tls *client = make(NULL, 0, 1, 0, NULL), *server = make("ec", 1, 0, 0, NULL);
        kit_ends p;
        psocket_question q;
        REQUIRE(client && server);
        REQUIRE(kit_begin(&p, client, server, "localhost"));
        kit_move(p.client, p.server, 80000);
        CHECK_INT(p.server->status, PSOCKET_WANT_SIGNATURE);
        if (how == 1) {
            psocket_close(p.server->s);
            CHECK(psocket_getquestion(p.server->s, &q) < 0);
            CHECK(psocket_signed(p.server->s, "x", 1) < 0);
        }
        if (how == 2) kit_eof(p.server);
        kit_end_both(&p);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* Blocking sockets answer too: the call returns with the question, and starttls is called again. And a poller reports a socket
   that asks while it serves others. */

KIT_TEST(in_a_poller, 60)
{
    psocket_tls *client = kit_client(), *server = make("ec", 1, 0, 0, NULL);
    psocket *c[2], *s[2], *plain[2];
    psocket_poller *poller = NULL;
    const psocket_event *ev;
    psocket_options o = {0};
    int i, n, rounds, served = 0, answered = 0;
    if (system("openssl version > /dev/null 2>&1")) SKIP("openssl is not installed");
    o.nonblocking = 1;
    REQUIRE(client && server && !psocket_poller_new(&poller));
    REQUIRE(!psocket_pair(&plain[0], &plain[1], &o));
    CHECK_INT(psocket_poller_set(poller, plain[1], PSOCKET_READ, -1, plain[1]), 0);
    for (i = 0; i < 2; i++) {
        REQUIRE(!psocket_pair(&c[i], &s[i], &o));
        psocket_starttls(c[i], client, "localhost");
        psocket_starttls(s[i], server, NULL);
        CHECK_INT(psocket_poller_set(poller, c[i], PSOCKET_READ, -1, c[i]), 0);
        CHECK_INT(psocket_poller_set(poller, s[i], PSOCKET_READ, -1, s[i]), 0);
    }
    for (rounds = 0; rounds < 2000 && !(psocket_istls(c[0]) && psocket_istls(c[1]) && psocket_istls(s[0]) && psocket_istls(s[1])); rounds++) {
        const void *data;
        if (rounds % 3 == 0) psocket_send(plain[0], "x", 1);
        n = psocket_poller_wait(poller, &ev, 1000);
        CHECK(n >= 0);
        for (i = 0; i < n; i++) {
            psocket *who = (psocket *)ev[i].user;
            psocket_question q;
            uint8_t sig[600];
            if (who == plain[1]) {
                served += psocket_recv(who, &data) > 0;
                continue;
            }
            if (who && psocket_getquestion(who, &q) == 0 && rounds >= 12) { /* the key takes its time */
                size_t len = sign(&q, "ec", sig, sizeof sig);
                answered++;
                CHECK_INT(psocket_signed(who, sig, len), 0);
                psocket_step(who);
            }
        }
    }
    CHECK(rounds < 2000);
    CHECK_INT(answered, 2);
    CHECK(served > 2);
    for (i = 0; i < 2; i++) {
        CHECK(psocket_istls(c[i]) && psocket_istls(s[i]));
        psocket_free(c[i]);
        psocket_free(s[i]);
        psocket_free(plain[i]);
    }
    psocket_poller_free(poller);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

