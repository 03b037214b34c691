/* BearSSL's own set-up offers TLS 1.0, 3DES, static RSA, CCM_8, MD5 and SHA-1, and puts ChaCha20 first. And a small output
   buffer makes the client ask for small records; and an address given as name would go into SNI. */
#include "kit.h"

static int is_grease(size_t v)
{
    return (v & 0x0F0F) == 0x0A0A && v >> 8 == (v & 255); /* RFC 8701 */
}

KIT_TEST(client_hello_has_nothing_weak, 20)
{
    static const size_t allowed[] = {0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0x1301, 0x1302, 0x1303};
    static const char *const names[] = {"localhost", "127.0.0.1", "::1", "fe80::1%eth0", "::1%lo"};
    psocket_tls *tls = kit_client();
    size_t k, names_tried = 5;
    REQUIRE(tls);
    for (k = 0; k < names_tried; k++) {
        kit_end *h = NULL;
        psocket_error e = {0};
        static kit_bytes b;
        size_t i, j, n, at, end, suites = 0, first = 0;
        int sni = 0, hashes = 0;
        if (kit_new(&h, tls, PSOCKET_CLIENT, names[k], &e)) {
            check_fail(__FILE__, __LINE__, "%s: %s", names[k], e.text);
            continue;
        }
        kit_take(h, &b);
        kit_free(h);
        REQUIRE(b.n > 60 && b.p[0] == 22 && b.p[5] == 1);
        CHECK_INT(kit_get(b.p + 9, 2), 0x0303);
        at = 5 + 4 + 2 + 32;
        CHECK_INT(b.p[at], kit_version == 0x0304 ? 32 : 0); /* no session; a made-up one for middleboxes (RFC 8446 D.4) */
        at += 1 + (size_t)b.p[at];
        n = kit_get(b.p + at, 2);
        for (at += 2, end = at + n; at < end; at += 2) {
            size_t suite = kit_get(b.p + at, 2);
            if (is_grease(suite) || suite == 0x00FF) continue;
            for (j = 0; j < 9 && allowed[j] != suite; j++) continue;
            CHECK(j < 9);
            CHECK_INT(suite >> 8 == 0x13, kit_version == 0x0304);
            if (!suites++) first = suite;
        }
        CHECK_INT(suites, kit_version == 0x0304 ? 3 : 6);
        if (br_aes_x86ni_ctr_get_vtable() && br_ghash_pclmul_get()) CHECK_INT(first, kit_version == 0x0304 ? 0x1301 : 0xC02B);
        CHECK_MEM(b.p + at, "\1\0", 2); /* no compression */
        CHECK_INT(kit_get(b.p + at + 2, 2), b.n - at - 4);
        for (at += 4; at + 4 <= b.n; at += 4 + n) {
            size_t type = kit_get(b.p + at, 2);
            n = kit_get(b.p + at + 2, 2);
            CHECK(type != 1); /* max_fragment_length */
            CHECK(type != 42); /* early_data */
            if (type == 0) sni = 1;
            if (type != 13) continue;
            for (i = 2; i < n; i += 2, hashes++) {
                size_t scheme = kit_get(b.p + at + 4 + i, 2);
                CHECK(is_grease(scheme) || (scheme >> 8 >= 4 && scheme >> 8 <= 6) || (scheme >= 0x0804 && scheme <= 0x080B));
            }
        }
        CHECK_INT(at, b.n);
        CHECK_INT(sni, k == 0);
        CHECK(hashes >= 6);
    }
    psocket_tls_free(tls);
}
