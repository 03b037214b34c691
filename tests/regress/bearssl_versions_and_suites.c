/* BearSSL's own set-up offers TLS 1.0, 3DES, static RSA, CCM_8, MD5 and SHA-1, and puts ChaCha20 first. And a small output
   buffer makes the client ask for small records; and an address given as name would go into SNI. */
#include "kit.h"

TEST(client_hello_has_nothing_weak)
{
    static const int allowed[] = {0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8};
    static const char *const names[] = {"localhost", "127.0.0.1", "::1"};
    psocket_tls *tls = kit_client();
    size_t k;
    REQUIRE(tls);
    for (k = 0; k < 3; k++) {
        kit_end *h = NULL;
        psocket_error e = {0};
        kit_bytes b;
        size_t i, j, n, at;
        int sni = 0, hashes = 0;
        REQUIRE(!kit_new(&h, tls, PSOCKET_CLIENT, names[k], &e));
        kit_take(h, &b);
        kit_free(h);
        REQUIRE(b.n > 60 && b.p[0] == 22 && b.p[5] == 1);
        CHECK_INT(b.p[9] * 256 + b.p[10], 0x0303);
        CHECK_INT(b.p[43], 0); /* no session */
        n = (size_t)b.p[44] * 256 + b.p[45];
        CHECK_INT(n, 12);
        for (i = 0; i < n; i += 2) {
            for (j = 0; j < 6 && allowed[j] != b.p[46 + i] * 256 + b.p[47 + i]; j++) continue;
            CHECK(j < 6);
        }
        if (br_aes_x86ni_ctr_get_vtable() && br_ghash_pclmul_get()) CHECK_INT(b.p[46] * 256 + b.p[47], 0xC02B);
        at = 46 + n + 2 + 2;
        while (at + 4 <= b.n) {
            size_t type = (size_t)b.p[at] * 256 + b.p[at + 1], len = (size_t)b.p[at + 2] * 256 + b.p[at + 3];
            CHECK(type != 1); /* max_fragment_length */
            if (type == 0) sni = 1;
            if (type == 13)
                for (i = 2; i < len; i += 2, hashes++) CHECK(b.p[at + 4 + i] >= 4 && b.p[at + 4 + i] <= 6);
            at += 4 + len;
        }
        CHECK_INT(at, b.n);
        CHECK_INT(sni, k == 0);
        CHECK_INT(hashes, 6);
    }
    psocket_tls_free(tls);
}
