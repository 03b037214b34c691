/* BearSSL: empty records and warning alerts are taken without limit, in a handshake and after it. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(endless_empty_records)
{
    static const uint8_t warning[] = {1, 90};
    psocket_tls *ct = pipe_client(), *stls = pipe_server("ec");
    psocket_error e = {0};
    pipe_bytes b;
    int kind, i;
    REQUIRE(ct && stls);
    for (kind = 0; kind < 4; kind++) {
        psi_hs *h = NULL;
        REQUIRE(!psi_hs_new(&h, kind % 2 ? ct : stls, !(kind % 2), "localhost", 0, &e));
        pipe_take(h, &b);
        b.n = 0;
        pipe_record(&b, kind < 2 ? 22 : 21, warning, kind < 2 ? 0 : 2);
        for (i = 0; i < 33; i++) {
            CHECK_INT(psi_hs_status(h, &e), PSOCKET_WANT_READ);
            pipe_feed(h, b.p, b.n);
        }
        pipe_failed(h, PSOCKET_TLS_PROTOCOL, 10, "records");
        psi_hs_free(h);
    }
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}
