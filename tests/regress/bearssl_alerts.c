/* BearSSL sends next to no alerts when it fails. */
#include "kit.h"

/* Damages a flight, whose receiver must say so, encrypted if it has keys, and the sender must understand it. */
KIT_TEST(failures_are_told, 20)
{
    psocket_tls *ct = kit_client(), *good = kit_server("ec"), *bad = kit_server("untrusted");
    int server, flights = kit_version == 0x0304 ? 2 : 3;
    REQUIRE(ct && good && bad);
    kit_bad(ct, bad, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    psocket_tls_free(bad);
    for (server = 0; server < 2; server++) { /* the last flight to the server, and the last to the client */
        kit_ends p;
        psocket_error e = {0};
        kit_end *from, *to;
        const void *data;
        int i;
        REQUIRE(kit_begin(&p, ct, good, "localhost"));
        for (i = 0; i < (server ? (flights == 2 ? 1 : 3) : 2); i++)
            kit_move(i % 2 ? p.server : p.client, i % 2 ? p.client : p.server, 80000);
        from = server ? p.server : p.client;
        to = server ? p.client : p.server;
        REQUIRE(from->out.n > 20);
        from->out.p[from->out.n - 1] ^= 1;
        kit_move(from, to, 80000);
        CHECK_INT(kit_status(to, &e), PSOCKET_TLS_RECORD);
        CHECK_INT(e.tls_alert, 20);
        kit_move(to, from, 80000);
        i = from->status ? from->status : (int)psocket_recv(from->s, &data);
        memset(&e, 0, sizeof e);
        psocket_geterror(from->s, &e);
        CHECK_INT(i, PSOCKET_TLS_ALERT);
        CHECK_INT(e.tls_alert, 20);
        kit_end_both(&p);
    }
    psocket_tls_free(ct);
    psocket_tls_free(good);
}
