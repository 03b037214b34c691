/* BearSSL, server: max_fragment_length bounds what is sent. The taken-over record layer must keep to it. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(fragments_as_the_client_asked)
{
    psocket_tls *ct = pipe_client(), *stls = pipe_server("rsa");
    int log;
    REQUIRE(ct && stls);
    for (log = 9; log <= 12; log++) {
        psi_hs *c = NULL, *s = NULL;
        psi_rec *rec = NULL;
        psi_tlsinfo *info = NULL;
        psocket_error e = {0};
        pipe_bytes b;
        size_t i;
        REQUIRE(!psi_hs_new(&c, ct, 0, "localhost", 0, &e) && !psi_hs_new(&s, stls, 1, NULL, 0, &e));
        c->u.client.eng.log_max_frag_len = (unsigned char)log; /* and begin anew */
        c->out_len = c->out_at = 0;
        REQUIRE(br_ssl_client_reset(&c->u.client, "localhost", 0));
        psi_hs_turn(c);
        pipe_move(c, s, 40000);
        pipe_take(s, &b);
        for (i = 0; i + 5 <= b.n; i += 5 + (size_t)b.p[i + 3] * 256 + b.p[i + 4])
            CHECK((size_t)b.p[i + 3] * 256 + b.p[i + 4] <= (size_t)1 << log);
        pipe_feed(c, b.p, b.n);
        pipe_run(c, s, 1000);
        CHECK_INT(psi_hs_status(c, &e), 0);
        REQUIRE(psi_hs_status(s, &e) == 0);
        REQUIRE(!psi_hs_finish(s, &rec, &info));
        CHECK_INT(psi_rec_max_send(rec), 1 << log);
        psi_rec_free(rec);
        psi_tlsinfo_free(info);
        psi_hs_free(c);
        psi_hs_free(s);
        psocket_tls_free(ct);
        ct = pipe_client(); /* no session */
    }
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}
