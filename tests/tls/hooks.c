/* The compile-time hooks of TLS: PSOCKET_KEYLOG, PSOCKET_WALLCLOCK and PSOCKET_BUILD_TIME. */
#include <stdint.h>
static void test_keylog(const char *line);
static int64_t test_wallclock, test_build_time;
#define PSOCKET_KEYLOG(line) test_keylog(line)
#define PSOCKET_WALLCLOCK() test_wallclock
#define PSOCKET_BUILD_TIME test_build_time
#include "kit.h"

static char lines[4][256];
static int line_count;

static void test_keylog(const char *line)
{
    if (line_count < 4) snprintf(lines[line_count], sizeof lines[0], "%s", line);
    line_count++;
}

TEST(keylog)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_ends p;
    char want[256];
    size_t i, n;
    REQUIRE(client && server);
    test_wallclock = (int64_t)time(NULL);
    kit_shake(&p, client, server, "localhost", 512);
    REQUIRE(p.client_status == 0 && p.server_status == 0);
    CHECK_INT(line_count, 2); /* one for each side */
    n = (size_t)snprintf(want, sizeof want, "CLIENT_RANDOM ");
    for (i = 0; i < 32; i++) n += (size_t)snprintf(want + n, sizeof want - n, "%02x", p.client->u.eng.client_random[i]);
    n += (size_t)snprintf(want + n, sizeof want - n, " ");
    for (i = 0; i < 48; i++)
        n += (size_t)snprintf(want + n, sizeof want - n, "%02x", p.client->u.eng.session.master_secret[i]);
    CHECK_STR(lines[0], want);
    CHECK_STR(lines[1], want);
    kit_end_both(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

static int64_t own_time;
static int64_t own_clock(void *user)
{
    (void)user;
    return own_time;
}

TEST(a_clock_that_is_not_set)
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
