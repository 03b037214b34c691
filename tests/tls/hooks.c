/* The compile-time hooks of TLS: PSOCKET_KEYLOG, PSOCKET_WALLCLOCK and PSOCKET_BUILD_TIME. */
#include <stdint.h>
static int64_t test_wallclock, test_build_time;
#define PSOCKET_WALLCLOCK() test_wallclock
#define PSOCKET_BUILD_TIME test_build_time
#include "tls/wire.h"

/* What the log says opens what is on the wire: kit_wire_run takes its keys from there. */
KIT_TEST(keylog, 20)
{
    static const char *const labels[2][4] = {{"CLIENT_RANDOM"}, {"CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}};
    static uint8_t plain[1000];
    int v = kit_version == 0x0304, i, type = 0;
    ptrdiff_t n;
    kit_wire w;
    test_wallclock = (int64_t)time(NULL);
    REQUIRE(kit_wire_join(&w, NULL));
    CHECK_INT(kit_keylog_lines, v ? 10 : 2); /* once for each side; EXPORTER_SECRET too */
    for (i = 0; i < 4 && labels[v][i]; i++) CHECK(kit_find_secret(labels[v][i], w.tap.client_random) != NULL);
    for (i = 0; i < 2; i++) {
        CHECK_INT(psocket_send(kit_sender(&w, i)->s, "logged", 6), 6);
        do n = kit_hear(&w, i, plain, &type);
        while (n > 0 && type == 22); /* tickets go in front */
        CHECK_INT(n, 6);
        CHECK_INT(type, 23);
        CHECK_MEM(plain, "logged", 6);
    }
    kit_wire_end(&w);
}

static int64_t own_time;
static int64_t own_clock(void *user)
{
    (void)user;
    return own_time;
}

KIT_TEST(a_clock_that_is_not_set, 20)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_settings s;
    REQUIRE(client && server);
    test_wallclock = 1000; /* a device without battery: 1970 */
    test_build_time = 0;
    kit_bad(client, server, "localhost", PSOCKET_CERT_NOT_YET_VALID, PSOCKET_TLS_ALERT, 45);
    test_build_time = (int64_t)time(NULL); /* it cannot be earlier than this */
    kit_good(client, server, "localhost", 512, NULL, NULL);
    test_wallclock = test_build_time + (int64_t)50 * 365 * 86400; /* a later calendar counts */
    kit_bad(client, server, "localhost", PSOCKET_CERT_EXPIRED, PSOCKET_TLS_ALERT, 45);
    psocket_tls_free(client);
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.clock = own_clock; /* the application's clock is believed */
    client = kit_make(&s);
    kit_done(&s);
    REQUIRE(client);
    own_time = 1000;
    kit_bad(client, server, "localhost", PSOCKET_CERT_NOT_YET_VALID, PSOCKET_TLS_ALERT, 45);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
