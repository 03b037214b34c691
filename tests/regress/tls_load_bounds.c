/* psocket_tls_loadsessions takes no session that would not have been kept: with no ticket, or one that no hello has room for. */
#include "kit.h"

#include <bearssl.h>

KIT_TEST(tickets_of_any_length, 30)
{
    static const size_t lengths[] = {0, 1, 4096, 4097, 16384, 65535};
    static uint8_t saved[20000], made[90000];
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_ends p;
    ptrdiff_t n;
    size_t end, ticket, i;
    REQUIRE(client && server);
    kit_good(client, server, "localhost", 100000, NULL, NULL);
    n = psocket_tls_savesessions(client, saved, sizeof saved);
    psocket_tls_free(client);
    REQUIRE(n > 300);
    end = 44 + kit_get(saved + 40, 4); /* of the first session, which ends with its ticket */
    for (ticket = 100; ticket < end - 46 && kit_get(saved + end - ticket - 2, 2) != ticket; ticket++) {}
    REQUIRE(ticket < end - 46);
    for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t body = end - 44 - ticket + lengths[i], len = 44 + body, k;
        int kept = lengths[i] > 0 && lengths[i] <= 4096;
        br_sha256_context sha;
        memcpy(made, saved, end - ticket);
        for (k = 0; k < 4; k++) made[40 + k] = (uint8_t)(body >> 8 * (3 - k));
        made[end - ticket - 2] = (uint8_t)(lengths[i] >> 8);
        made[end - ticket - 1] = (uint8_t)lengths[i];
        memset(made + end - ticket, 0x5A, lengths[i]);
        br_sha256_init(&sha);
        br_sha256_update(&sha, made, len);
        br_sha256_out(&sha, made + len);
        client = kit_client();
        REQUIRE(client);
        CHECK_INT(psocket_tls_loadsessions(client, made, len + 32), kept ? 0 : PSOCKET_INVALID);
        kit_shake(&p, client, server, "localhost", 100000);
        kit_talk(&p, NULL, NULL);
        kit_end_both(&p);
        psocket_tls_free(client);
    }
    psocket_tls_free(server);
}
