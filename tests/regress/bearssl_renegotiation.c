/* BearSSL renegotiates unless told not to. Here any attempt is answered with a no_renegotiation warning. */
#include "tls/wire.h"

static kit_wire w;

static void attempt(int dir, const char *message, size_t n)
{
    const void *data;
    REQUIRE(kit_wire_join(&w, NULL));
    kit_forge(&w, dir, 22, message, n);
    CHECK_INT(psocket_recv(kit_sender(&w, !dir)->s, &data), PSOCKET_WANT_READ);
    CHECK_INT(kit_hear_alert(&w, !dir), 256 + 100);
    kit_forge(&w, dir, 23, "still here", 10);
    CHECK_INT(psocket_recv(kit_sender(&w, !dir)->s, &data), 10);
    CHECK_INT(psocket_send(kit_sender(&w, !dir)->s, "me too", 6), 6);
    kit_wire_end(&w);
}

KIT_TEST_12(renegotiation_is_refused, 20)
{
    attempt(1, "\0\0\0\0", 4);
    attempt(0, "\1\0\0\2xx", 6);
}

/* TLS 1.3 has none at all. */
TEST(nor_in_tls_1_3)
{
    static const char *const messages[] = {"\0\0\0\0", "\1\0\0\2xx"};
    const void *data;
    int dir;
    kit_version = 0x0304;
    for (dir = 0; dir < 2; dir++) {
        psocket_error e = {0};
        REQUIRE(kit_wire_join(&w, NULL));
        kit_forge(&w, dir, 22, messages[!dir], dir ? 4 : 6);
        CHECK_INT(psocket_recv(kit_sender(&w, !dir)->s, &data), PSOCKET_TLS_PROTOCOL);
        psocket_geterror(kit_sender(&w, !dir)->s, &e);
        CHECK_INT(e.tls_alert, 10);
        CHECK_INT(kit_hear_alert(&w, !dir), 512 + 10);
        kit_wire_end(&w);
    }
}
