/* BearSSL: handshake bytes behind Finished in the same record leave the engine wanting nothing: a pump spins for ever. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

/* The sender of Finished repeats it with extra bytes behind it. */
static void trail(int server)
{
    psocket_tls *ct = pipe_client(), *stls = pipe_server("rsa");
    psi_hs *c = NULL, *s = NULL, *from, *to;
    psocket_error e = {0};
    br_sslrec_gcm_context gcm;
    pipe_bytes b;
    uint8_t room[128] = {0};
    uint8_t *p = room + 32;
    size_t n = 16 + 4, i;
    REQUIRE(ct && stls);
    for (i = 0; i < PSI_TLS_SUITES; i++) ct->prim.suites[i] = BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
    REQUIRE(!psi_hs_new(&c, ct, 0, "localhost", 0, &e) && !psi_hs_new(&s, stls, 1, NULL, 0, &e));
    pipe_move(c, s, 40000);
    pipe_move(s, c, 40000);
    if (server) pipe_move(c, s, 40000);
    from = server ? s : c;
    to = server ? c : s;
    pipe_take(from, &b);
    b.n -= 5 + 40; /* everything but Finished */
    pipe_feed(to, b.p, b.n);
    p[0] = 20;
    p[3] = 12;
    memcpy(p + 4, from->u.eng.saved_finished + (server ? 12 : 0), 12);
    gcm = from->u.eng.out.gcm;
    gcm.seq = 0;
    p = gcm.vtable.out->inner.encrypt((const br_sslrec_out_class **)(void *)&gcm.vtable.out, 22, 0x0303, p, &n);
    CHECK_INT(psi_hs_status(to, &e), PSOCKET_WANT_READ);
    pipe_feed(to, p, n);
    CHECK_INT(psi_hs_status(to, &e), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(e.tls_alert, 10);
    psi_hs_free(c);
    psi_hs_free(s);
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}

TEST(bytes_behind_the_clients_finished) { trail(0); }
TEST(bytes_behind_the_servers_finished) { trail(1); }
