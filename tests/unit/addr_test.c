/* Numeric addresses: what parses, what does not, and how they print (RFC 4291, RFC 5952). */
#define PSOCKET_IMPLEMENTATION
#define PSOCKET_NO_TLS
#include "../../psocket.h"
#include "../check.h"
#include <arpa/inet.h>

TEST(prints_as_rfc_5952)
{
    static const char *const table[][2] = {
        { "127.0.0.1", "127.0.0.1" }, { "0.0.0.0", "0.0.0.0" }, { "255.255.255.255", "255.255.255.255" },
        { "::", "::" }, { "::1", "::1" }, { "1::", "1::" }, { "2001:DB8:0:0:0:0:2:1", "2001:db8::2:1" },
        { "2001:db8::1:0:0:1", "2001:db8::1:0:0:1" }, { "2001:0:0:1:0:0:0:1", "2001:0:0:1::1" },
        { "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8" }, { "1:0:3:4:5:6:7:8", "1:0:3:4:5:6:7:8" },
        { "::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8" }, { "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0" },
        { "64:ff9b::192.0.2.33", "64:ff9b::c000:221" }, { "[::1]", "::1" }, { "fe80::1%3", "fe80::1%3" },
        { "[fe80::1%12]", "fe80::1%12" }, { "abcd:ef01:2345:6789:abcd:ef01:192.168.100.200", "abcd:ef01:2345:6789:abcd:ef01:c0a8:64c8" }
    };
    size_t i;
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        psi_addr a;
        char out[64];
        CHECK(psi_addr_parse(&a, table[i][0], strlen(table[i][0])));
        psi_addr_print(&a, out);
        CHECK_STR(out, table[i][1]);
    }
}

TEST(refuses)
{
    static const char *const bad[] = {
        "", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4", "1..2.3", "1.2.3.", "0x7f.0.0.1", "1.2.3.-4",
        ":", ":::", "1:2", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::", ":1::", "1:", "1:2:3:4:5:6:7:", "::1.2.3",
        "::1.2.3.4.5", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3.4:5", "[::1", "::1]", "[1.2.3.4]", "[]", "fe80::1%", "fe80::1%eth0", "fe80::1%12345678901",
        "1:2:3:4:5:6:7::8:9", "::ffff:1.2.3.400"
    };
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        psi_addr a;
        if (!CHECK(!psi_addr_parse(&a, bad[i], strlen(bad[i])))) CHECK_STR(bad[i], "refused");
    }
}

/* Every text that the system's inet_pton takes or refuses, we take or refuse, for random and mutated addresses. */
TEST(agrees_with_inet_pton)
{
    static const char alphabet[] = "0123456789abcdefABCDEF::::....";
    unsigned seed = 7;
    int i, taken = 0;
    for (i = 0; i < 300000; i++) {
        char text[48];
        unsigned char want[16];
        psi_addr a;
        int n, k, ours, theirs;
        seed = seed * 1664525u + 1013904223u;
        n = (int)(seed >> 20) % 12;
        for (k = 0; k < n; k++) {
            seed = seed * 1664525u + 1013904223u;
            text[k] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        text[n] = 0;
        ours = psi_addr_parse(&a, text, (size_t)n);
        theirs = inet_pton(AF_INET, text, want) == 1 || inet_pton(AF_INET6, text, want) == 1;
        if (ours != theirs && !CHECK(ours == theirs)) CHECK_STR(text, ours ? "ours took it" : "theirs took it");
        if (ours && theirs) {
            CHECK_MEM(a.ip, want, a.family == PSI_IP4 ? 4 : 16);
            taken++;
        }
        if (check_shared->failures) return;
    }
    CHECK(taken > 1000);
}

TEST(mapped_becomes_plain)
{
    psi_addr a;
    char out[64];
    CHECK(psi_addr_parse(&a, "::ffff:10.1.2.3", 15));
    psi_addr_normalise(&a);
    psi_addr_print(&a, out);
    CHECK_STR(out, "10.1.2.3");
}

TEST(address_with_port)
{
    psi_addr a;
    int port = -1;
    CHECK_INT(psi_addr_parse_port(&a, "127.0.0.1:8080", &port), 0);
    CHECK_INT(port, 8080);
    port = -1;
    CHECK_INT(psi_addr_parse_port(&a, "[::1]:0", &port), 0);
    CHECK_INT(port, 0);
    port = -1;
    CHECK_INT(psi_addr_parse_port(&a, "::1", &port), 0);
    CHECK_INT(port, -1);
    CHECK_INT(psi_addr_parse_port(&a, "[::1]", &port), 0);
    CHECK_INT(port, -1);
    CHECK_INT(psi_addr_parse_port(&a, "127.0.0.1:65536", &port), PSOCKET_INVALID);
    CHECK_INT(psi_addr_parse_port(&a, "127.0.0.1:", &port), PSOCKET_INVALID);
    CHECK_INT(psi_addr_parse_port(&a, "127.0.0.1:123456", &port), PSOCKET_INVALID);
    CHECK_INT(psi_addr_parse_port(&a, "localhost:80", &port), PSOCKET_INVALID);
    CHECK_INT(psi_addr_parse_port(&a, ":80", &port), PSOCKET_INVALID);
    CHECK_INT(psi_addr_parse_port(&a, "", &port), PSOCKET_INVALID);
}
