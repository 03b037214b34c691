/* BearSSL: multiplying an X25519 point of small order succeeds, and the shared secret is zero (RFC 7748 6.1). */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(small_order_points_are_refused)
{
    static const uint8_t points[4][32] = {
        {0},
        {1},
        {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
         0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
        {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}};
    uint8_t scalar[32], point[32];
    int i;
    memset(scalar, 0x41, sizeof scalar);
    for (i = 0; i < 4; i++) {
        memcpy(point, points[i], 32);
        CHECK_INT(psi_tls_ec_mul(point, 32, scalar, 32, BR_EC_curve25519), 0);
    }
    memset(point, 0, sizeof point);
    point[0] = 9;
    CHECK_INT(psi_tls_ec_mul(point, 32, scalar, 32, BR_EC_curve25519), 1);
}

/* A client that sends such a point does not get through. */
TEST(server_refuses_a_zero_point)
{
    psocket_tls *ct = pipe_client(), *stls = pipe_server("ec");
    psi_hs *c = NULL, *s = NULL;
    psocket_error e = {0};
    pipe_bytes b;
    REQUIRE(ct && stls);
    REQUIRE(!psi_hs_new(&c, ct, 0, "localhost", 0, &e) && !psi_hs_new(&s, stls, 1, NULL, 0, &e));
    pipe_move(c, s, 40000);
    pipe_move(s, c, 40000);
    pipe_take(c, &b);
    REQUIRE(b.p[5] == 16 && b.p[9] == 32);
    memset(b.p + 10, 0, 32);
    pipe_feed(s, b.p, b.n);
    CHECK(psi_hs_status(s, &e) < PSOCKET_WANT_READ);
    CHECK(e.tls_alert > 0);
    psi_hs_free(c);
    psi_hs_free(s);
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}
