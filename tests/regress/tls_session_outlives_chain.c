/* What a session stands for is the chain that was verified: it ends when a certificate of the path does, not only the
 * peer's own, and resumed connections inherit that end. Both for servers and for clients that prove themselves. */
#include "tls/wire.h"
#include "regress/x.h"

enum { HOUR = 3600, END = 1893456000 }; /* 2030-01-01 */

/* The certificate d, signed anew by a key with another end of its time. */
static der ends(der d, const char *until, int by)
{
    der out = {0};
    const uint8_t *tbs = d.p, *inner, *end;
    uint8_t hash[32], sig[80] = {0};
    size_t i, n, whole;
    br_sha256_context h;
    der_enter(&tbs, &n);
    inner = tbs;
    end = der_enter(&inner, &n);
    for (i = 0; i + 13 <= d.n; i++)
        if (!memcmp(d.p + i, "491231235959Z", 13)) memcpy(d.p + i, until, 13);
    br_sha256_init(&h);
    br_sha256_update(&h, tbs, (size_t)(end - tbs));
    br_sha256_out(&h, hash);
    n = br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), &br_sha256_vtable, hash, x_key(by), sig + 1);
    whole = der_open(&out);
    der_put(&out, tbs, (size_t)(end - tbs));
    der_raw(&out, "\x30\x0A\x06\x08\x2A\x86\x48\xCE\x3D\x04\x03\x02");
    der_element(&out, 0x03, sig, n + 1);
    der_close(&out, 0x30, whole);
    free(d.p);
    return out;
}

typedef struct party {
    der root, chain, key;
} party;

/* A host or client whose intermediate, or root, ends at END. */
static party made(int short_root)
{
    party p;
    der names = {0}, inter;
    x_san(&names, "localhost");
    p.key = x_key_file(3, 1);
    p.root = x_cert("root", 1, "root", 1, 1, NULL);
    inter = x_cert("inter", 2, "root", 1, 1, NULL);
    if (short_root) p.root = ends(p.root, "300101000000Z", 1);
    else inter = ends(inter, "300101000000Z", 1);
    p.chain = x_cert("leaf", 3, "inter", 2, 0, &names);
    der_put(&p.chain, inter.p, inter.n);
    free(inter.p);
    free(names.p);
    return p;
}

static psocket_tls *settings(const party *p, int proves, int trusts, int client_auth)
{
    psocket_identity id = {0};
    psocket_tls_options o = {0};
    psocket_error e = {0};
    psocket_tls *tls = NULL;
    id.chain = p->chain.p;
    id.chain_len = p->chain.n;
    id.key = p->key.p;
    id.key_len = p->key.n;
    o.identities = &id;
    o.identity_count = proves != 0;
    o.ca = trusts ? p->root.p : NULL;
    o.ca_len = trusts ? p->root.n : 0;
    o.client_auth = client_auth;
    o.insecure_no_verify = !trusts;
    o.clock = kit_clock;
    o.error = &e;
    o.min_version = o.max_version = kit_version;
    if (psocket_tls_new(&tls, &o)) check_fail(__FILE__, __LINE__, "%s", e.text);
    return tls;
}

/* 1 resumed, 0 full, or the error of the end that verifies. */
static int shake(psocket_tls *client, psocket_tls *server, int judge)
{
    kit_ends p;
    psocket_tlsinfo i = {0};
    int code;
    kit_shake(&p, client, server, "localhost", 80000);
    code = judge ? p.server_status : p.client_status;
    if (!p.client_status && !p.server_status) {
        kit_talk(&p, &i, NULL);
        code = i.resumed;
    }
    kit_end_both(&p);
    return code;
}

static void outlives(const party *p, int of_client)
{
    psocket_tls *c = settings(p, of_client, !of_client, 0), *s = settings(p, 1, of_client, of_client ? 2 : 0);
    REQUIRE(c && s);
    kit_time = END - 4 * HOUR;
    CHECK_INT(shake(c, s, of_client), 0);
    kit_time = END - 2 * HOUR;
    CHECK_INT(shake(c, s, of_client), 1);
    kit_time = END + HOUR; /* neither the first session nor that of the resumed connection */
    CHECK_INT(shake(c, s, of_client), PSOCKET_CERT_EXPIRED);
    CHECK_INT(shake(c, s, of_client), PSOCKET_CERT_EXPIRED);
    psocket_tls_free(c);
    psocket_tls_free(s);
}

static void all(int of_client)
{
    int short_root;
    for (short_root = 0; short_root < 2; short_root++) {
        party p = made(short_root);
        outlives(&p, of_client);
        free(p.root.p);
        free(p.chain.p);
        free(p.key.p);
    }
}

KIT_TEST(of_servers, 20)
{
    all(0);
}

KIT_TEST(of_clients, 20)
{
    all(1);
}
