/* BearSSL renegotiates unless told not to. Here the record layer answers any attempt with a no_renegotiation warning. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static void attempt(psi_rec *from, psi_rec *to, const char *message, size_t n)
{
    uint8_t room[128];
    uint8_t *p = room + PSI_REC_HEAD;
    psi_rec_in in;
    psocket_error e = {0};
    memcpy(p, message, n);
    p = psi_rec_seal(from, PSI_REC_HANDSHAKE, p, &n);
    CHECK_INT(psi_rec_open(to, p, n, &in, &e), PSI_REC_SKIP);
    CHECK_INT(in.alert_level, 1);
    CHECK_INT(in.alert, 100);
    pipe_say(from, to, "still here");
    pipe_say(to, from, "me too");
}

TEST(renegotiation_is_refused)
{
    psocket_tls *ct = pipe_client(), *stls = pipe_server("ec");
    pipe_ends p;
    psi_rec *c = NULL, *s = NULL;
    psi_tlsinfo *ci = NULL, *si = NULL;
    REQUIRE(ct && stls);
    pipe_shake(&p, ct, stls, "localhost", 512);
    CHECK(p.client->u.eng.flags & BR_OPT_NO_RENEGOTIATION);
    CHECK(p.server->u.eng.flags & BR_OPT_NO_RENEGOTIATION);
    REQUIRE(!psi_hs_finish(p.client, &c, &ci) && !psi_hs_finish(p.server, &s, &si));
    attempt(s, c, "\0\0\0\0", 4);
    attempt(c, s, "\1\0\0\2xx", 6);
    psi_rec_free(c);
    psi_rec_free(s);
    psi_tlsinfo_free(ci);
    psi_tlsinfo_free(si);
    pipe_end(&p);
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}
