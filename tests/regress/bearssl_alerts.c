/* BearSSL sends next to no alerts when it fails. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

/* Damages the last flight, whose receiver must say so, encrypted if it has keys. */
TEST(failures_are_told)
{
    psocket_tls *ct = pipe_client(), *stls = pipe_server("ec"), *bad = pipe_server("untrusted");
    psi_hs *c = NULL, *s = NULL;
    psocket_error e = {0};
    pipe_bytes b;
    REQUIRE(ct && stls && bad);
    pipe_bad(ct, bad, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    REQUIRE(!psi_hs_new(&c, ct, 0, "localhost", 0, &e) && !psi_hs_new(&s, stls, 1, NULL, 0, &e));
    pipe_move(c, s, 40000);
    pipe_move(s, c, 40000);
    pipe_take(c, &b);
    b.p[b.n - 1] ^= 1;
    pipe_feed(s, b.p, b.n);
    pipe_failed(s, PSOCKET_TLS_RECORD, 20, "the client's Finished");
    psi_hs_free(c);
    psi_hs_free(s);
    REQUIRE(!psi_hs_new(&c, ct, 0, "localhost", 0, &e) && !psi_hs_new(&s, stls, 1, NULL, 0, &e));
    pipe_move(c, s, 40000);
    pipe_move(s, c, 40000);
    pipe_move(c, s, 40000);
    CHECK_INT(psi_hs_status(s, &e), PSOCKET_WANT_READ); /* done, but for its output */
    pipe_take(s, &b);
    CHECK_INT(psi_hs_status(s, &e), 0);
    b.p[b.n - 1] ^= 1;
    pipe_feed(c, b.p, b.n);
    CHECK_INT(psi_hs_status(c, &e), PSOCKET_TLS_RECORD);
    CHECK_INT(e.tls_alert, 20);
    {   /* the server can read the encrypted alert */
        psi_rec *rec = NULL;
        psi_tlsinfo *info = NULL;
        psi_rec_in in;
        pipe_take(c, &b);
        REQUIRE(!psi_hs_finish(s, &rec, &info));
        CHECK_INT(psi_rec_open(rec, b.p, b.n, &in, &e), PSOCKET_TLS_ALERT);
        CHECK_INT(e.tls_alert, 20);
        psi_rec_free(rec);
        psi_tlsinfo_free(info);
    }
    psi_hs_free(c);
    psi_hs_free(s);
    psocket_tls_free(ct);
    psocket_tls_free(stls);
    psocket_tls_free(bad);
}
