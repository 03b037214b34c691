/* BearSSL: empty records and warning alerts are taken without limit, in a handshake and after it. */
#include "kit.h"

KIT_TEST(endless_empty_records, 20)
{
    static const uint8_t warning[] = {1, 90};
    psocket_tls *ct = kit_client(), *stls = kit_server("ec");
    psocket_error e = {0};
    static kit_bytes b;
    int kind, i;
    REQUIRE(ct && stls);
    for (kind = 0; kind < 4; kind++) {
        kit_end *h = NULL;
        REQUIRE(!kit_new(&h, kind % 2 ? ct : stls, kind % 2 ? PSOCKET_CLIENT : PSOCKET_SERVER, "localhost", &e));
        kit_take(h, &b);
        b.n = 0;
        kit_record(&b, kind < 2 ? 22 : 21, warning, kind < 2 ? 0 : 2);
        for (i = 0; i < 33 && kit_status(h, &e) == PSOCKET_WANT_READ; i++) kit_feed(h, b.p, b.n);
        kit_failed(h, PSOCKET_TLS_PROTOCOL, 10, "records");
        kit_free(h);
    }
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}
