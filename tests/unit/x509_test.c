/* The pieces of >>x509: DER, dates, names, PEM, keys, and the limits of the path search. */
#include <sys/resource.h>
#include <stddef.h>
#include <stdlib.h>

static long memory_left = -1; /* so many allocations succeed; -1: all */
static int memory_gone(void)
{
    if (memory_left > 0) memory_left--;
    return memory_left == 0;
}
static void *test_malloc(size_t n) { return memory_gone() ? NULL : malloc(n); }
static void *test_realloc(void *p, size_t n) { return memory_gone() ? NULL : realloc(p, n); }
#define PSOCKET_MALLOC(n) test_malloc(n)
#define PSOCKET_REALLOC(p, n) test_realloc(p, n)
#define PSOCKET_FREE(p) free(p)
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "check.h"

#define SPAN(literal) psi_x509_span_of(literal, sizeof(literal) - 1)

static char *load(const char *name, size_t *len)
{
    static char path[1200];
    char *data;
    int os;
    snprintf(path, sizeof path, "%s/%s", check_certs(), name);
    return psi_os_readfile(path, &data, len, &os) ? NULL : data;
}

/* --- DER -------------------------------------------------------------------------------------------------------- */

TEST(der_elements)
{
    static const struct {
        const char *bytes;
        int n, ok, len;
    } t[] = {
        {"\x04\x00", 2, 1, 0},
        {"\x04\x03" "abc", 5, 1, 3},
        {"\x04\x03" "ab", 4, 0, 0},
        {"\x04", 1, 0, 0},
        {"", 0, 0, 0},
        {"\x04\x80\x00\x00", 4, 0, 0},         /* indefinite */
        {"\x04\x81\x03" "abc", 6, 0, 0},       /* not minimal */
        {"\x04\x82\x00\x81", 4, 0, 0},
        {"\x04\x81", 2, 0, 0},
        {"\x04\x83\xFF\xFF\xFF", 5, 0, 0},
        {"\x04\x84\x00\x00\x00\x01" "a", 7, 0, 0},
        {"\x1F\x81\x01\x00", 4, 0, 0},         /* tag numbers in several bytes */
        {"\x04\xFF", 2, 0, 0},
    };
    size_t i;
    char big[200];
    psi_x509_span in, whole, body;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        in = psi_x509_span_of(t[i].bytes, (size_t)t[i].n);
        whole = psi_x509_element(&in);
        CHECK_INT(psi_x509_end(in), t[i].ok);
        CHECK_INT(whole.n, t[i].ok ? t[i].n : 0);
        in = psi_x509_span_of(t[i].bytes, (size_t)t[i].n);
        body = psi_x509_any(&in);
        CHECK_INT(psi_x509_end(in), t[i].ok);
        CHECK_INT(body.p != NULL, t[i].ok);
        CHECK_INT(body.n, t[i].len);
        body = psi_x509_any(&in); /* nothing comes of what is malformed or at its end, but the same */
        CHECK(!body.p && !in.p && !in.n);
    }
    memcpy(big, "\x04\x81\x80", 3);
    memset(big + 3, 'x', sizeof big - 3);
    in = psi_x509_span_of(big, 131);
    body = psi_x509_take(&in, 0x04);
    CHECK(body.n == 128 && psi_x509_end(in));
    in = psi_x509_span_of(big, 130);
    CHECK(!psi_x509_take(&in, 0x04).p && !in.p);
    in = SPAN("\x04\x00");
    CHECK(!psi_x509_take(&in, 0x05).p && !in.p);
    CHECK(psi_x509_seq(SPAN("\x30\x02\x05\x00")).n == 2);
    CHECK(!psi_x509_seq(SPAN("\x30\x02\x05\x00\x05\x00")).p);
    CHECK(!psi_x509_seq(SPAN("\x31\x00")).p);
}

/* Is this element of this tag in its one form? */
static int takes(const char *bytes, size_t n)
{
    psi_x509_span in = psi_x509_span_of(bytes, n);
    psi_x509_take(&in, (unsigned char)bytes[0]);
    return psi_x509_end(in);
}
#define TAKES(literal) takes(literal, sizeof(literal) - 1)

TEST(der_numbers)
{
    psi_x509_span v;
    CHECK(TAKES("\x02\x01\x00") && TAKES("\x02\x01\xFF") && TAKES("\x02\x02\x00\x80") && TAKES("\x02\x02\xFF\x7F"));
    CHECK(!TAKES("\x02\x00") && !TAKES("\x02\x02\x00\x7F") && !TAKES("\x02\x02\xFF\x80"));
    CHECK(TAKES("\x01\x01\xFF") && TAKES("\x01\x01\x00"));
    CHECK(!TAKES("\x01\x00") && !TAKES("\x01\x01\x01") && !TAKES("\x01\x02\xFF\xFF"));
    CHECK(TAKES("\x03\x01\x00") && TAKES("\x03\x02\x07\x80") && TAKES("\x03\x03\x01\x55\x54"));
    CHECK(!TAKES("\x03\x00") && !TAKES("\x03\x01\x01") && !TAKES("\x03\x02\x08\x00") && !TAKES("\x03\x02\x01\x55"));
    CHECK(TAKES("\x06\x03\x55\x1D\x0F") && TAKES("\x06\x03\x2A\x86\x48"));
    CHECK(!TAKES("\x06\x00") && !TAKES("\x06\x02\x80\x2A") && !TAKES("\x06\x03\x55\x80\x0F") && !TAKES("\x06\x02\x55\x9D"));
    CHECK(psi_x509_read(SPAN("\x02\x02\x00\x80"), "=u", &v) && v.n == 1 && v.p[0] == 0x80);
    CHECK(psi_x509_read(SPAN("\x02\x01\x00"), "=u", &v) && psi_x509_end(v));
    CHECK(!psi_x509_read(SPAN("\x02\x01\x80"), "=u", &v));
    CHECK(psi_x509_read(SPAN("\x81\x01\x05"), "=w", &v) && v.n == 1);
    CHECK(!psi_x509_read(SPAN("\x81\x00"), "=w", &v) && !psi_x509_read(SPAN("\x81\x01\x05"), "=u", &v));
    CHECK_INT(psi_x509_number(SPAN("")), 0);
    CHECK_INT(psi_x509_number(SPAN("\x7F")), 127);
    CHECK_INT(psi_x509_number(SPAN("\x7F\xFF")), 32767);
    CHECK(psi_x509_number(SPAN("\x01\x00\x00\x00\x00")) > 255);
    CHECK(psi_x509_read(SPAN("\x03\x02\x00\x55"), "=b", &v) && v.n == 1);
    CHECK(!psi_x509_read(SPAN("\x03\x02\x01\x54"), "=b", &v) && !psi_x509_read(SPAN("\x03\x00"), "=b", &v));
}

/* What a shape takes and stores: what is missing has no p, what is malformed spoils all that is read from there on. */
TEST(shapes)
{
    psi_x509_span v[4];
    CHECK(psi_x509_read(SPAN("\x30\x06\x02\x01\x05\x04\x01" "x"), "(=u?=f=s)", v));
    CHECK(PSI_X509_IS(v[0], "\5") && !v[1].p && PSI_X509_IS(v[2], "x"));
    CHECK(psi_x509_read(SPAN("\x30\x03\x01\x01\xFF"), "(?=u?=f?=s)", v) && !v[0].p && v[1].n == 1 && !v[2].p);
    CHECK(!psi_x509_read(SPAN("\x30\x03\x02\x01\x05"), "(=u=s)", v) && !v[1].p); /* one is lacking */
    CHECK(!psi_x509_read(SPAN("\x30\x03\x02\x01\x05"), "()", v));               /* one too many */
    CHECK(!psi_x509_read(SPAN("\x30\x03\x02\x01\x05\x00"), "(u)", v));          /* something behind */
    CHECK(!psi_x509_read(SPAN("\x30\x04\x02\x01\x05"), "(=u)", v) && !v[0].p);   /* cut off */
    CHECK(psi_x509_read(SPAN("\x30\x05\x02\x01\x05\x05\x00"), "(=u=.)", v) && PSI_X509_IS(v[1], "\5\0"));
    CHECK(psi_x509_read(SPAN("\x30\x03\x02\x01\x05"), "(=e=.)", v) && v[0].n == 3 && psi_x509_end(v[1]));
    CHECK(psi_x509_read(SPAN("\x30\x06\x02\x01\x05\x02\x01\x06"), "=(+i)", v) && v[0].n == 6);
    CHECK(!psi_x509_read(SPAN("\x30\x06\x02\x01\x05\x04\x01\x06"), "=(+i)", v) && v[0].n == 6);
    CHECK(!psi_x509_read(SPAN("\x30\x00"), "(+i)", v) && psi_x509_read(SPAN("\x30\x00"), "(?+i)", v));
    CHECK(psi_x509_read(SPAN("\x30\x06\x02\x01\x05\x02\x01\x06"), "(+=u)=.", v)); /* a list stores its last */
    CHECK(PSI_X509_IS(v[0], "\6") && psi_x509_end(v[1]));
    CHECK(psi_x509_read(SPAN("\xA0\x03\x02\x01\x05"), "0u)", v) && !psi_x509_read(SPAN("\xA1\x03\x02\x01\x05"), "0u)", v));
}

TEST(dates)
{
    static const struct {
        int tag;
        const char *text;
        int ok;
        int64_t want;
    } t[] = {
        {0x17, "700101000000Z", 1, 0},
        {0x17, "691231235959Z", 1, -1},
        {0x17, "000229000000Z", 1, 951782400},
        {0x17, "491231235959Z", 1, 2524607999},
        {0x17, "500101000000Z", 1, -631152000},
        {0x18, "19700101000000Z", 1, 0},
        {0x18, "20240229120000Z", 1, 1709208000},
        {0x18, "99991231235959Z", 1, 253402300799},
        {0x18, "00000101000000Z", 1, -62167219200},
        {0x18, "20230229000000Z", 0, 0},
        {0x18, "21000229000000Z", 0, 0},
        {0x18, "20000229000000Z", 1, 951782400},
        {0x17, "240431000000Z", 0, 0},
        {0x17, "240400000000Z", 0, 0},
        {0x17, "241301000000Z", 0, 0},
        {0x17, "240001000000Z", 0, 0},
        {0x17, "240101240000Z", 0, 0},
        {0x17, "240101006000Z", 0, 0},
        {0x17, "240101000060Z", 0, 0},
        {0x17, "2401010000Z", 0, 0},
        {0x17, "240101000000", 0, 0},
        {0x17, "2401010000+0", 0, 0},
        {0x17, "24010100000aZ", 0, 0},
        {0x18, "20240101000000.5Z", 0, 0},
        {0x18, "20240101000000+0", 0, 0},
        {0x16, "240101000000Z", 0, 0},
    };
    size_t i;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        char der[40];
        psi_x509_span in = psi_x509_span_of(der, strlen(t[i].text) + 2);
        int64_t got;
        der[0] = (char)t[i].tag;
        der[1] = (char)strlen(t[i].text);
        strcpy(der + 2, t[i].text);
        got = psi_x509_time(&in);
        CHECK_INT(psi_x509_end(in), t[i].ok);
        if (t[i].ok) CHECK_INT(got, t[i].want);
    }
}

/* --- names (RFC 9525) ----------------------------------------------------------------------------------------------
 */

TEST(host_names)
{
    static const struct {
        const char *presented, *host;
        int want;
    } t[] = {
        {"example.org", "example.org", 2},
        {"EXAMPLE.org", "example.ORG", 2},
        {"example.org", "example.org.", 2},
        {"example.org.", "example.org", 0},
        {"example.org", "example.org..", 0},
        {"example.org", "www.example.org", 0},
        {"www.example.org", "example.org", 0},
        {"example.org", "xample.org", 0},
        {"xample.org", "example.org", 0},
        {"*.example.org", "www.example.org", 1},
        {"*.EXAMPLE.org", "www.example.ORG.", 1},
        {"*.example.org", "example.org", 0},
        {"*.example.org", ".example.org", 0},
        {"*.example.org", "a.b.example.org", 0},
        {"*.example.org", "www.example.net", 0},
        {"*.example.org", "*.example.org", 0},
        {"*.b.example.org", "a.b.example.org", 1},
        {"*.org", "example.org", 0},
        {"*.", "example", 0},
        {"*", "example", 0},
        {"", "", 0},
        {"*..org", "a..org", 0},
        {"a*.example.org", "ab.example.org", 0},
        {"*a.example.org", "ba.example.org", 0},
        {"a.*.org", "a.b.org", 0},
        {"*.*.org", "a.b.org", 0},
        {"**.example.org", "a.example.org", 0},
        {"*.example.org", "xn--bcher-kva.example.org", 1},
        {"xn--*.example.org", "xn--a.example.org", 0},
        {"*.xn--bcher-kva.example", "a.xn--bcher-kva.example", 1},
        {"1.2.3.4", "1.2.3.4", 0},
        {"*.2.3.4", "1.2.3.4", 0},
        {"a.123", "a.123", 0},
        {"127.1", "127.1", 0},
        {"1.example.org", "1.example.org", 2},
        {"_srv.example.org", "_srv.example.org", 2},
        {"-a.example.org", "-a.example.org", 0},
        {"a-.example.org", "a-.example.org", 0},
        {"a b.example.org", "a b.example.org", 0},
        {"example.org ", "example.org", 0},
        {"localhost", "localhost", 2},
    };
    char label[80], host[80];
    psi_x509_host h;
    size_t i;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        psi_x509_span name = psi_x509_span_of(t[i].presented, strlen(t[i].presented));
        int got = psi_x509_host_parse(&h, t[i].host) ? psi_x509_host_is(&h, 0x82, name) : 0;
        if (got != t[i].want) check_fail(__FILE__, __LINE__, "%s for %s: %d", t[i].presented, t[i].host, got);
    }
    CHECK(!psi_x509_host_parse(&h, "b\303\274cher.example"));
    memset(label, 'a', 63);
    snprintf(host, sizeof host, "%.63s.org", label);
    CHECK(psi_x509_host_parse(&h, host));
    label[63] = 'a';
    snprintf(host, sizeof host, "%.64s.org", label);
    CHECK(!psi_x509_host_parse(&h, host));
}

TEST(addresses)
{
    psi_x509_host h;
    CHECK(psi_x509_host_parse(&h, "192.0.2.1") && h.address.family == PSI_IP4);
    CHECK_INT(psi_x509_host_is(&h, 0x87, SPAN("\xC0\x00\x02\x01")), 2);
    CHECK_INT(psi_x509_host_is(&h, 0x87, SPAN("\xC0\x00\x02\x02")), 0);
    CHECK_INT(psi_x509_host_is(&h, 0x82, SPAN("192.0.2.1")), 0);
    CHECK_INT(psi_x509_host_is(&h, 0x82, SPAN("\xC0\x00\x02\x01")), 0);
    CHECK(psi_x509_host_parse(&h, "::ffff:192.0.2.1") && h.address.family == PSI_IP6);
    CHECK_INT(psi_x509_host_is(&h, 0x87, SPAN("\xC0\x00\x02\x01")), 2);
    CHECK_INT(psi_x509_host_is(&h, 0x87, SPAN("\0\0\0\0\0\0\0\0\0\0\xFF\xFF\xC0\x00\x02\x01")), 2);
    CHECK_INT(psi_x509_host_is(&h, 0x87, SPAN("\0\0\0\0\0\0\0\0\0\0\xFF\xFF\xC0\x00\x02\x02")), 0);
    CHECK(psi_x509_host_parse(&h, "192.0.2.1") && h.address.family == PSI_IP4);
    CHECK_INT(psi_x509_host_is(&h, 0x87, SPAN("\0\0\0\0\0\0\0\0\0\0\xFF\xFF\xC0\x00\x02\x01")), 0);
    CHECK(psi_x509_host_parse(&h, "::1") && h.address.family == PSI_IP6);
    CHECK(psi_x509_host_parse(&h, "[::1]") && h.address.family == PSI_IP6);
    CHECK(psi_x509_host_parse(&h, "fe80::1%eth0") && h.address.family == PSI_IP6);
    CHECK(!psi_x509_host_parse(&h, "1.2.3"));
    CHECK(!psi_x509_host_parse(&h, "1.2.3.256"));
    CHECK(!psi_x509_host_parse(&h, "0x7f.0.0.1"));
}

TEST(constraints)
{
    CHECK_INT(psi_x509_dns_within(SPAN("example.org"), SPAN("example.org"), 0), 1);
    CHECK_INT(psi_x509_dns_within(SPAN("example.org"), SPAN("a.b.EXAMPLE.org"), 0), 1);
    CHECK_INT(psi_x509_dns_within(SPAN("example.org"), SPAN("aexample.org"), 0), 0);
    CHECK_INT(psi_x509_dns_within(SPAN(""), SPAN("a.org"), 0), 1);
    CHECK_INT(psi_x509_dns_within(SPAN(".example.org"), SPAN("example.org"), 0), 0);
    CHECK_INT(psi_x509_dns_within(SPAN(".example.org"), SPAN("example.org"), 1), 1);
    CHECK_INT(psi_x509_dns_within(SPAN(".example.org"), SPAN("a.example.org"), 0), 1);
    CHECK_INT(psi_x509_dns_within(SPAN("."), SPAN("a.example.org"), 0), -1);
    CHECK_INT(psi_x509_dns_within(SPAN("*.example.org"), SPAN("a.example.org"), 0), -1);
    CHECK_INT(psi_x509_dns_within(SPAN("example.org"), SPAN(".example.org"), 0), -1);
    CHECK_INT(psi_x509_dns_within(SPAN("example.org"), SPAN("*.example.org"), 0), 1);
    CHECK_INT(psi_x509_dns_within(SPAN("a.example.org"), SPAN("*.example.org"), 0), 0);
    CHECK_INT(psi_x509_dns_within(SPAN("a.example.org"), SPAN("*.example.org"), 1), 1);
    CHECK_INT(psi_x509_dns_within(SPAN("a.b.example.org"), SPAN("*.example.org"), 1), 0);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00\xFF\x00\x00\x00"), SPAN("\x0A\x01\x02\x03"), 0), 1);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00\xFF\x00\x00\x00"), SPAN("\x0B\x01\x02\x03"), 0), 0);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00\xFF\x00\xFF\x00"), SPAN("\x0A\x01\x02\x03"), 0), -1);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00\xFD\x00\x00\x00"), SPAN("\x0A\x01\x02\x03"), 0), -1);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00"), SPAN("\x0A\x01\x02\x03"), 0), -1);
    CHECK_INT(psi_x509_ip_within(SPAN("\0\0\0\0\0\0\0\0"), SPAN("\x0A\x01\x02\x03"), 0), 1);
    CHECK_INT(psi_x509_ip_within(SPAN("\0\0\0\0\0\0\0\0"), SPAN("0123456789abcdef"), 0), 0);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00\xFF\x00\x00\x00"), SPAN("\0\0\0\0\0\0\0\0\0\0\xFF\xFF\x0A\x01\x02\x03"), 0), 0);
    CHECK_INT(psi_x509_ip_within(SPAN("\x0A\x00\x00\x00\xFF\x00\x00\x00"), SPAN("\0\0\0\0\0\0\0\0\0\0\xFF\xFF\x0A\x01\x02\x03"), 1), 1);
}

/* A Name of one common name. */
static psi_x509_span common_name(char *buf, int tag, const char *text, size_t n)
{
    memcpy(buf, "\x30\0\x31\0\x30\0\x06\x03\x55\x04\x03", 11);
    buf[1] = (char)(n + 11);
    buf[3] = (char)(n + 9);
    buf[5] = (char)(n + 7);
    buf[11] = (char)tag;
    buf[12] = (char)n;
    memcpy(buf + 13, text, n);
    return psi_x509_span_of(buf, n + 13);
}

static const char *name_text(char *buf, size_t size, psi_x509_span name)
{
    psi_x509_text t = PSI_ZERO;
    t.p = buf;
    t.size = size;
    buf[0] = 0;
    psi_x509_put_name(&t, name);
    return buf;
}

/* Names that differ in case, spaces and string type are the same (RFC 5280 7.1). */
TEST(directory_names)
{
    char buf[4][100], text[64];
    psi_x509_span a = common_name(buf[0], 0x0C, "My Root", 7), b = common_name(buf[1], 0x13, " my  ROOT", 9);
    psi_x509_span c = common_name(buf[2], 0x13, "MyRoot", 6), bmp = common_name(buf[3], 0x1E, "\0M", 2);
    psi_x509_span longer = SPAN("\x30\x1E\x31\x10\x30\x0E\x06\x03\x55\x04\x03\x0C\x07"
                                "My Root"
                                "\x31\x0A\x30\x08\x06\x03\x55\x04\x0A\x0C\x01"
                                "O");
    CHECK(psi_x509_name_hash(a) != 0 && psi_x509_name_hash(a) == psi_x509_name_hash(b));
    CHECK(psi_x509_same_name(a, b));
    CHECK(!psi_x509_same_name(a, c));
    CHECK_INT(psi_x509_name_within(a, longer, 0), 1);
    CHECK(!psi_x509_same_name(a, longer));
    CHECK_INT(psi_x509_name_within(longer, a, 1), 0);
    CHECK(!psi_x509_same_name(a, bmp));
    CHECK_INT(psi_x509_name_within(a, bmp, 0), 0); /* who knows */
    CHECK_INT(psi_x509_name_within(a, bmp, 1), 1);
    CHECK_INT(psi_x509_name_within(SPAN("\x30\x00"), a, 0), 1);
    CHECK_INT(psi_x509_name_within(SPAN("\x30\x02\x31\x00"), a, 0), -1);
    CHECK(!psi_x509_name_hash(SPAN("\x30\x02\x31\x00")));
    CHECK(!psi_x509_name_hash(SPAN("\x30\x04\x30\x02\x06\x00")));
    CHECK(!psi_x509_name_hash(SPAN("\x30\x0D\x31\x0B\x30\x09\x06\x04\x55\x04\x80\x03\x0C\x01" "a")));
    CHECK_STR(name_text(text, sizeof text, longer), "O=O,CN=My Root");
    CHECK_STR(name_text(text, sizeof text, common_name(buf[0], 0x0C, "a,b\x1B\xC3\xBC\xFF\xC2\x9B", 9)),
              "CN=a\\,b\\1B\xC3\xBC\\FF\\C2\\9B");
    CHECK_STR(name_text(text, 6, longer), "O=O,");
    /* whatever its type, a value cannot pretend to be more than one */
    CHECK_STR(name_text(text, sizeof text, common_name(buf[0], 0x1E, "a,CN=\\0", 7)), "CN=a\\,CN=\\\\0");
    CHECK_STR(name_text(text, sizeof text, SPAN("\x30\x12\x31\x10\x30\x0E\x06\x09\x2A\x86\x48\x86\xF7\x0D\x01\x09\x01\x16\x01" "m")),
              "1.2.840.113549.1.9.1=m");
}

/* Two strings of different types, or of a type that has several ways to write one letter, may be the same to others. */
TEST(names_that_depend)
{
    static const struct {
        int tag;
        const char *text;
        int other;
        const char *with;
        int want;
    } t[] = {
        {0x14, "M\xFCller", 0x0C, "M\xC3\xBCller", -1},
        {0x0C, "M\xC3\x9CLLER", 0x0C, "M\xC3\xBCller", -1},
        {0x0C, "Mu\xCC\x88ller", 0x0C, "M\xC3\xBCller", -1},
        {0x0C, "M\xC3\xBCller", 0x0C, "M\xC3\xBCller", 1},
        {0x14, "Miller", 0x0C, "miller", 1},
        {0x0C, "Miller\t", 0x0C, "Miller", -1},
        {0x13, "Miller", 0x0C, "Muller", 0},
        {0x04, "Miller", 0x0C, "Miller", -1},
    };
    char a[100], b[100];
    size_t i;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        psi_x509_span base = common_name(a, t[i].tag, t[i].text, strlen(t[i].text));
        psi_x509_span name = common_name(b, t[i].other, t[i].with, strlen(t[i].with));
        int got = psi_x509_name_within(base, name, 0);
        if (got == 0 && psi_x509_name_within(base, name, 1) == 1) got = -1; /* it depends */
        if (got != t[i].want) check_fail(__FILE__, __LINE__, "%s and %s: %d", t[i].text, t[i].with, got);
    }
    /* several attributes in one part are in the order of their encodings, which their types decide */
    CHECK_INT(psi_x509_name_within(SPAN("\x30\x16\x31\x14\x30\x08\x06\x03\x55\x04\x03\x0C\x01" "a\x30\x08\x06\x03\x55\x04\x0B\x0C\x01" "b"),
                                   SPAN("\x30\x16\x31\x14\x30\x08\x06\x03\x55\x04\x0B\x0C\x01" "b\x30\x08\x06\x03\x55\x04\x03\x13\x01" "a"), 1), 1);
}

/* Of a name of many parts, the last ones are told: they are what tells it from others. */
TEST(long_directory_names)
{
    char der[3 + 18 * 12 + 1], text[100], *p = der + 3;
    int i;
    memcpy(der, "\x30\x81\xD8", 3);
    for (i = 0; i < 18; i++, p += 12) {
        memcpy(p, "\x31\x0A\x30\x08\x06\x03\x55\x04\x0B\x0C\x01", 11);
        p[11] = (char)('a' + i);
    }
    CHECK_STR(name_text(text, sizeof text, psi_x509_span_of(der, 3 + 18 * 12)),
              "OU=r,OU=q,OU=p,OU=o,OU=n,OU=m,OU=l,OU=k,OU=j,OU=i,OU=h,OU=g,OU=f,OU=e,OU=d,OU=c");
}

static int breaks(psi_x509_walk *w, const psi_x509_cert *ca, int tag, psi_x509_span name)
{
    return psi_x509_name_breaks(w, ca, tag, name);
}

/* A constraint that cannot be read excludes every name; one of a kind that is not evaluated, the names of that kind if it is
   critical. */
TEST(malformed_constraints)
{
    static const struct {
        const char *constraints;
        int n, breaks;
    } t[] = {
        {"\xA1\x0E\x30\x0C\xA4\x0A\x30\x08\x31\x06\x30\x04\x06\x02\x55\x04", 16, 1}, /* no value */
        {"\xA1\x08\x30\x06\xA4\x04\x30\x02\x31\x00", 10, 1},                         /* an empty part */
        {"\xA1\x13\x30\x11\xA4\x0F\x30\x0D\x31\x0B\x30\x09\x06\x03\x55\x04\x03\x0C\x02no", 21, 0},
        {"\xA1\x13\x30\x11\xA4\x0F\x30\x0D\x31\x0B\x30\x09\x06\x03\x55\x04\x03\x0C\x02me", 21, 1},
    };
    psi_x509_walk w;
    psi_x509_cert ca;
    size_t i;
    memset(&w, 0, sizeof w);
    memset(&ca, 0, sizeof ca);
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        w.work = 100;
        psi_x509_read(psi_x509_span_of(t[i].constraints, (size_t)t[i].n), "1=.)", &ca.bounds[1]);
        CHECK_INT(breaks(&w, &ca, 0xA4, SPAN("\x30\x0D\x31\x0B\x30\x09\x06\x03\x55\x04\x03\x0C\x02me")),
                  t[i].breaks);
    }
    for (i = 0; i < 2; i++) {
        w.work = 100;
        memset(ca.bounds, 0, sizeof ca.bounds);
        ca.bounds[!i] = i ? SPAN("\x30\x05\x81\x03" "a@b") : SPAN("\x30\x05\x86\x03" "a:b");
        CHECK_INT(breaks(&w, &ca, i ? 0x81 : 0x86, SPAN("c@d")), 0);
        ca.constrains = 2;
        CHECK_INT(breaks(&w, &ca, i ? 0x81 : 0x86, SPAN("c@d")), 1);
        CHECK_INT(breaks(&w, &ca, 0x82, SPAN("c.d")), 0);
        ca.constrains = 1;
    }
}

/* --- PEM -----------------------------------------------------------------------------------------------------------
 */

TEST(base64)
{
    static const struct {
        const char *in, *out;
    } t[] = {
        {"", NULL},
        {"TQ==", "M"},
        {"TWE=", "Ma"},
        {"TWFu", "Man"},
        {"TWFuTQ==\r\n", "ManM"},
        {" T W\tF\nu", "Man"},
        {"TQ=", NULL},
        {"TQ", NULL},
        {"T===", NULL},
        {"TR==", NULL},
        {"TWF=", NULL},
        {"TQ==TQ==", NULL},
        {"TQ==T", NULL},
        {"T*Fu", NULL},
        {"=", NULL},
        {"TW=u", NULL},
        {"Proc-Type: x\n\nTWFu", "Man"},
        {"A: b\r\nC: d\r\n\r\nTWFu\r\n", "Man"},
    };
    size_t i, n;
    uint8_t out[64];
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        n = psi_x509_base64(psi_x509_span_of(t[i].in, strlen(t[i].in)), out);
        if (n != (t[i].out ? strlen(t[i].out) : 0) || (n && memcmp(out, t[i].out, n) != 0))
            check_fail(__FILE__, __LINE__, "base64 \"%s\"", t[i].in);
    }
}

TEST(pem_blocks)
{
    psi_x509_span in, label, body;
    in = SPAN(
        "x -----BEGIN NOT A-----\n-----END NOT A-----\n\xEF\xBB\xBF -----BEGIN A-----\r\nTQ==\r\n"
             "-----END A----------BEGIN B-----x-----END B-----");
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), 1);
    CHECK(PSI_X509_IS(label, "A") && PSI_X509_IS(body, "\r\nTQ==\r\n"));
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), 1);
    CHECK(PSI_X509_IS(label, "B") && PSI_X509_IS(body, "x"));
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), 0);
    in = SPAN("-----BEGIN A-----\nTQ==\n-----END B-----\n-----BEGIN C-----\n-----END C-----");
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), -1);
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), 1);
    CHECK(PSI_X509_IS(label, "C"));
    in = SPAN("-----BEGIN A-----\nTQ==\n-----BEGIN C-----\n-----END C-----");
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), -1);
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), 1);
    in = SPAN("-----BEGIN A");
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), -1);
    in = SPAN("-----BEGIN A-----\nTQ==\n-----END A");
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), -1);
    CHECK_INT(psi_x509_pem_next(&in, &label, &body), 0);
}

/* --- keys ----------------------------------------------------------------------------------------------------------
 */

static int key_code(const char *text, size_t len)
{
    psi_x509_key k;
    psocket_error e = PSI_ZERO;
    int r = psi_x509_key_load(&k, text, len, &e);
    if (r) CHECK(e.code == r && e.text[0]);
    if (!r) psi_x509_key_free(&k);
    return r;
}

TEST_LIMIT(keys_and_certificates, 60)
{
    static const char *const names[] = {"rsa", "ec", "self", "ca", "client"};
    enum { COUNT = 5 };
    psi_x509_chain chain[COUNT] = PSI_ZERO;
    psi_x509_key key[COUNT];
    size_t i, k, len, n;
    for (i = 0; i < COUNT; i++) {
        char file[32], *text;
        snprintf(file, sizeof file, "%s.pem", names[i]);
        text = load(file, &len);
        REQUIRE(text != NULL);
        CHECK_INT(psi_x509_load(&chain[i], PSI_X509_CHAIN, text, len, "the certificate chain", NULL), 0);
        psi_free(text);
        snprintf(file, sizeof file, "%s.key", names[i]);
        text = load(file, &len);
        REQUIRE(text != NULL);
        CHECK_INT(psi_x509_key_load(&key[i], text, len, NULL), 0);
        for (n = 0; n < len; n += 37) CHECK(key_code(text, n) != 0); /* cut off */
        psi_free(text);
    }
    for (i = 0; i < COUNT; i++)
        for (k = 0; k < COUNT; k++) CHECK_INT(psi_x509_key_matches(&key[i], &chain[k].certs[0]), i == k);
    for (i = 0; i < 5; i++) { /* one damaged CRT value is a mismatch, not a faulty signature later */
        unsigned char *values[5];
        values[0] = key[0].rsa.p, values[1] = key[0].rsa.q, values[2] = key[0].rsa.dp;
        values[3] = key[0].rsa.dq, values[4] = key[0].rsa.iq;
        for (k = 3; k < 120; k += 23) {
            values[i][k] ^= 1;
            CHECK_INT(psi_x509_key_matches(&key[0], &chain[0].certs[0]), 0);
            values[i][k] ^= 1;
        }
        CHECK_INT(psi_x509_key_matches(&key[0], &chain[0].certs[0]), 1);
    }
    CHECK_INT(psi_x509_key_matches(&key[1], &chain[1].certs[0]), 1);
    for (i = 0; i < COUNT; i++) {
        const psi_x509_cert *c = &chain[i].certs[0];
        psocket_certinfo info;
        psi_x509_host host;
        char text[256];
        CHECK_INT(psi_x509_usable(c, NULL), i == 3 ? PSOCKET_CERT_USAGE : 0); /* an authority's key signs certificates only */
        CHECK_INT(c->key.key_type, i == 1 ? BR_KEYTYPE_EC : BR_KEYTYPE_RSA);
        CHECK_INT(c->usage < 0 || (c->usage & PSI_X509_KU_SIGN), i != 3);
        CHECK(psi_x509_host_parse(&host, "localhost"));
        CHECK_INT(psi_x509_names(c, &host), i < 3 ? 2 : 0);
        CHECK(psi_x509_host_parse(&host, "a.wild.test"));
        CHECK_INT(psi_x509_names(c, &host), i < 3);
        psi_x509_info(c, &info, text, sizeof text);
        CHECK_STR(info.subject, i < 3 ? "CN=localhost" : i == 3 ? "CN=psocket test root" : "CN=psocket test client");
        CHECK(info.not_after > info.not_before);
        psi_x509_key_free(&key[i]);
        psi_x509_chain_free(&chain[i]);
    }
}

/* Every kind of signature, made and checked; nothing else passes. */
TEST_LIMIT(signatures, 60)
{
    static const char *const names[] = {"rsa", "ec"};
    static const uint8_t salt[64] = {1, 2, 3};
    int n, hash, kind;
    for (n = 0; n < 2; n++) {
        psi_x509_chain chain = PSI_ZERO;
        psi_x509_key key;
        char file[32], *text;
        size_t len, i;
        snprintf(file, sizeof file, "%s.pem", names[n]);
        text = load(file, &len);
        REQUIRE(text != NULL && psi_x509_load(&chain, PSI_X509_CHAIN, text, len, "the certificate chain", NULL) == 0);
        psi_free(text);
        snprintf(file, sizeof file, "%s.key", names[n]);
        text = load(file, &len);
        REQUIRE(text != NULL && psi_x509_key_load(&key, text, len, NULL) == 0);
        psi_free(text);
        for (kind = PSI_X509_PKCS1; kind <= PSI_X509_ECDSA; kind++)
            for (hash = br_sha256_ID; hash <= br_sha512_ID; hash++) {
                psi_x509_cert *c = &chain.certs[0];
                uint8_t digest[64], sig[PSI_X509_SIGNATURE];
                psi_x509_alg alg, other;
                alg.kind = kind;
                alg.hash = hash;
                alg.salt = (int)psi_x509_hash_len(hash);
                memset(digest, 0xA0 + hash, sizeof digest);
                len = psi_auth_make(&key, &alg, digest, salt, sig);
                CHECK_INT(len != 0, (kind == PSI_X509_ECDSA) == n);
                if (!len) continue;
                CHECK_INT(psi_x509_signed(c, &alg, digest, psi_x509_span_of(sig, len)), 1);
                digest[5] ^= 1;
                CHECK_INT(psi_x509_signed(c, &alg, digest, psi_x509_span_of(sig, len)), 0);
                digest[5] ^= 1;
                for (i = 0; i < len; i += 7) {
                    sig[i] ^= 4;
                    CHECK_INT(psi_x509_signed(c, &alg, digest, psi_x509_span_of(sig, len)), 0);
                    sig[i] ^= 4;
                }
                CHECK_INT(psi_x509_signed(c, &alg, digest, psi_x509_span_of(sig, len - 1)), 0);
                other = alg;
                other.kind = kind % 3 + 1;
                CHECK_INT(psi_x509_signed(c, &other, digest, psi_x509_span_of(sig, len)), 0);
                other = alg;
                other.salt--;
                CHECK_INT(psi_x509_signed(c, &other, digest, psi_x509_span_of(sig, len)), kind != PSI_X509_PSS);
                c->only.kind = key.only.kind = PSI_X509_PSS; /* an RSA-PSS key makes and checks PSS alone, of its own hash */
                CHECK_INT(psi_x509_signed(c, &alg, digest, psi_x509_span_of(sig, len)), kind != PSI_X509_PKCS1);
                CHECK_INT(psi_auth_make(&key, &alg, digest, salt, sig) != 0, kind != PSI_X509_PKCS1);
                c->only = alg;
                c->only.hash = hash == br_sha256_ID ? br_sha384_ID : br_sha256_ID;
                c->only.kind = PSI_X509_PSS;
                CHECK_INT(psi_x509_signed(c, &alg, digest, psi_x509_span_of(sig, len)), kind == PSI_X509_ECDSA);
                memset(&c->only, 0, sizeof c->only);
                c->only.kind = key.only.kind = 0;
            }
        psi_x509_key_free(&key);
        psi_x509_chain_free(&chain);
    }
}

TEST_LIMIT(key_forms, 60)
{
    static const struct {
        const char *command;
        int want;
    } t[] = {
        {"openssl pkey -in %s/rsa.key", 0},
        {"openssl rsa -in %s/rsa.key -traditional", 0},
        {"openssl rsa -in %s/rsa.key -outform DER -traditional", 0},
        {"openssl pkey -in %s/rsa.key -outform DER", 0},
        {"openssl ec -in %s/ec.key", 0},
        {"openssl ec -in %s/ec.key -outform DER", 0},
        {"openssl pkcs8 -topk8 -nocrypt -in %s/ec.key -outform DER", 0},
        {"openssl ecparam -name prime256v1 -genkey", 0},
        {"openssl pkey -in %s/ec.key | sed 's/$/\\r/; s/^/ /'", 0},
        {"cat %s/ec.pem %s/ec.key", 0},
        {"openssl ecparam -name secp384r1 -genkey -noout", 0},
        {"openssl ecparam -name secp521r1 -genkey -noout", 0},
        {"openssl ecparam -name secp256k1 -genkey -noout", PSOCKET_TLS_KEY},
        {"openssl ecparam -name prime256v1 -genkey -noout -param_enc explicit", PSOCKET_TLS_KEY},
        {"openssl genpkey -algorithm ED25519", PSOCKET_TLS_KEY},
        {"openssl genrsa 1024", PSOCKET_TLS_KEY},
        {"openssl genrsa -primes 3 2048", PSOCKET_TLS_KEY},
        {"openssl pkey -in %s/rsa.key -aes128 -passout pass:x", PSOCKET_TLS_KEY},
        {"openssl rsa -in %s/rsa.key -traditional -aes128 -passout pass:x", PSOCKET_TLS_KEY},
        {"openssl pkcs8 -topk8 -in %s/rsa.key -outform DER -passout pass:x", PSOCKET_TLS_KEY},
        {"openssl pkey -in %s/rsa.key -pubout", PSOCKET_TLS_PEM},
        {"cat %s/ca.pem", PSOCKET_TLS_PEM},
        {"true", PSOCKET_TLS_PEM},
        {"openssl pkey -in %s/rsa.key | sed '5s/./*/'", PSOCKET_TLS_PEM},
        {"openssl pkey -in %s/rsa.key | sed 's/END PRIVATE/END PUBLIC/'", PSOCKET_TLS_PEM},
    };
    size_t i;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        char command[4000], text[20000];
        size_t len;
        FILE *p;
        int r;
        size_t used = 0;
        const char *f;
        for (f = t[i].command; *f && used < 3000; f++) {
            if (f[0] == '%' && f[1] == 's')
                used += (size_t)snprintf(command + used, sizeof command - used, "%s", check_certs()), f++;
            else command[used++] = *f;
        }
        snprintf(command + used, sizeof command - used, " 2>/dev/null");
        p = popen(command, "r");
        REQUIRE(p != NULL);
        len = fread(text, 1, sizeof text, p);
        pclose(p);
        r = key_code(text, len);
        if (r != t[i].want) check_fail(__FILE__, __LINE__, "%s: %d, not %d", t[i].command, r, t[i].want);
    }
}

/* --- limits ----------------------------------------------------------------------------------------------------------
 */

TEST(chain_limits)
{
    psi_x509_chain c = PSI_ZERO;
    static uint8_t big[PSOCKET_CHAIN_BYTES + 1];
    int i, r = 0;
    CHECK_INT(psi_x509_chain_add(&c, PSI_X509_CHAIN, big, PSOCKET_CHAIN_BYTES + 1), PSOCKET_CERT_LIMIT);
    CHECK_INT(psi_x509_chain_add(&c, PSI_X509_CHAIN, big, PSOCKET_CHAIN_BYTES), 0);
    CHECK_INT(psi_x509_chain_add(&c, PSI_X509_CHAIN, big, 1), PSOCKET_CERT_LIMIT);
    psi_x509_chain_free(&c);
    for (i = 0; i < 100000 && !r; i++) r = psi_x509_chain_add(&c, PSI_X509_CHAIN, big, 1);
    CHECK_INT(r, PSOCKET_CERT_LIMIT);
    CHECK(c.count <= 1000);
    psi_x509_chain_free(&c);
}

TEST(empty_and_garbage_chains)
{
    psi_x509_chain anchors = PSI_ZERO;
    psi_x509_query q = PSI_ZERO;
    psi_x509_chain c = PSI_ZERO;
    psocket_error e = PSI_ZERO;
    size_t len;
    char *text = load("self.pem", &len);
    REQUIRE(text != NULL);
    CHECK_INT(psi_x509_load(&anchors, PSI_X509_ANCHORS, text, len, "", &e), 0);
    psi_free(text);
    q.anchors = &anchors;
    q.name = "example.org";
    CHECK_INT(psi_x509_verify(&q, &c, &e), PSOCKET_CERT_MISSING);
    CHECK_INT(e.cert_index, -1);
    CHECK_INT(psi_x509_chain_add(&c, PSI_X509_CHAIN, (const uint8_t *)"", 0), 0);
    CHECK_INT(psi_x509_verify(&q, &c, &e), PSOCKET_CERT_MALFORMED);
    CHECK_INT(e.cert_index, 0);
    CHECK_INT(e.tls_alert, 42);
    CHECK_INT(psi_x509_verify(&q, &c, NULL), PSOCKET_CERT_MALFORMED);
    psi_x509_chain_free(&anchors);
    psi_x509_chain_free(&c);
}

/* The sentences for people. */
TEST(texts)
{
    static const struct {
        const char *chain, *host, *want;
        int64_t shift;
        int alert;
    } t[] = {
        {"expired.pem", "localhost", "certificate expired 3 days ago: CN=localhost", 3 * 86400 + 5, 45},
        {"expired.pem", "localhost", "certificate expired 100 seconds ago: CN=localhost", 100, 45},
        {"expired.pem", "localhost", "certificate expired 5 hours ago: CN=localhost", 5 * 3600 + 3599, 45},
        {"wrong.pem", "localhost", "certificate is for wrong.test, not for localhost", 0, 42},
        {"rsa.pem", "other.test", "certificate is for localhost, 127.0.0.1, ::1 and others, not for other.test", 0, 42},
        {"untrusted.pem", "localhost",
         "certificate has an issuer that is neither trusted nor among those sent: CN=another root (to trust it, give it in ca_file or SSL_CERT_FILE)", 0, 48},
        {"self.pem", "localhost", "certificate is self-signed and not among the trusted ones: CN=localhost (to trust it, give it in ca_file or SSL_CERT_FILE)", 0, 48},
        {"client.pem", "localhost", "certificate is not meant for TLS servers: CN=psocket test client", 0, 43},
    };
    psi_x509_chain anchors = PSI_ZERO;
    psocket_tls_options opt = PSI_ZERO;
    char path[1200];
    size_t i, len;
    snprintf(path, sizeof path, "%s/ca.pem", check_certs());
    opt.ca_file = path;
    REQUIRE(psi_x509_load_anchors(&anchors, &opt, NULL) == 0);
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        psi_x509_chain c = PSI_ZERO;
        psi_x509_query q = PSI_ZERO;
        psocket_error e = PSI_ZERO;
        char *text = load(t[i].chain, &len);
        REQUIRE(text != NULL);
        CHECK_INT(psi_x509_load(&c, PSI_X509_CHAIN, text, len, "the certificate chain", NULL), 0);
        psi_free(text);
        q.anchors = &anchors;
        q.name = t[i].host;
        q.now = t[i].shift ? c.certs[0].not_after + t[i].shift : (int64_t)time(NULL);
        CHECK(psi_x509_verify(&q, &c, &e) != 0);
        CHECK_STR(e.text, t[i].want);
        CHECK_INT(e.tls_alert, t[i].alert);
        CHECK_INT(e.cert_index, 0);
        psi_x509_chain_free(&c);
    }
    psi_x509_chain_free(&anchors);
}

/* Every allocation fails in turn, and all after it: an error each time, and nothing is left behind. */
TEST_LIMIT(out_of_memory, 60)
{
    char roots[1200], chain_file[1200], key_file[1200], *chain_text, *key_text;
    size_t chain_len, key_len;
    long n;
    int done = 0, os;
    snprintf(roots, sizeof roots, "%s/ca.pem", check_certs());
    snprintf(chain_file, sizeof chain_file, "%s/rsa.pem", check_certs());
    snprintf(key_file, sizeof key_file, "%s/rsa.key", check_certs());
    REQUIRE(psi_os_readfile(chain_file, &chain_text, &chain_len, &os) == 0 &&
            psi_os_readfile(key_file, &key_text, &key_len, &os) == 0);
    for (n = 1; !done && n < 100; n++) {
        psocket_tls_options opt = PSI_ZERO;
        psi_x509_chain anchors = PSI_ZERO;
        psi_x509_chain c = PSI_ZERO;
        psi_x509_key k;
        psocket_error e = PSI_ZERO;
        int r;
        memory_left = n;
        opt.ca_file = roots;
        opt.ca = chain_text;
        opt.ca_len = chain_len;
        memset(&k, 0, sizeof k);
        r = psi_x509_load_anchors(&anchors, &opt, &e);
        if (!r) r = psi_x509_load(&c, PSI_X509_CHAIN, chain_text, chain_len, "the certificate chain", &e);
        if (!r) r = psi_x509_key_load(&k, key_text, key_len, &e);
        if (!r) {
            psi_x509_query q = PSI_ZERO;
            q.anchors = &anchors;
            q.name = "localhost";
            q.now = (int64_t)time(NULL);
            r = psi_x509_verify(&q, &c, &e);
        }
        done = r == 0;
        CHECK(r == 0 || (r == PSOCKET_NOMEM && e.code == r && e.text[0]));
        memory_left = -1;
        psi_x509_chain_free(&anchors);
        psi_x509_chain_free(&c);
        psi_x509_key_free(&k);
    }
    CHECK(done && n > 8);
    psi_free(chain_text);
    psi_free(key_text);
}

/* A folder of anchors is loaded whole or not at all. */
TEST_LIMIT(out_of_memory_in_a_folder, 60)
{
    size_t all = 0;
    long n;
    int r = PSOCKET_NOMEM;
    for (n = 0; r == PSOCKET_NOMEM && n < 1000; n++) {
        psocket_tls_options opt = PSI_ZERO;
        psi_x509_chain anchors = PSI_ZERO;
        psocket_error e = PSI_ZERO;
        memory_left = n ? n : -1;
        opt.ca_dir = check_certs();
        r = psi_x509_load_anchors(&anchors, &opt, &e);
        memory_left = -1;
        if (r) {
            CHECK_INT(r, PSOCKET_NOMEM);
        } else if (!n) {
            all = anchors.count;
            r = PSOCKET_NOMEM;
        } else {
            CHECK_INT(anchors.count, all);
        }
        psi_x509_chain_free(&anchors);
    }
    CHECK(all > 8 && n > 30 && n < 1000);
}

/* A clock may say anything. */
/* What is accepted without a path, or without trust, ends with the certificate. What is nobody's fault is an
   internal_error. */
TEST(the_end_without_a_path)
{
    static const int codes[] = {PSOCKET_CERT_SELF_SIGNED, PSOCKET_TLS_NO_TRUST, PSOCKET_DESCRIPTORS, PSOCKET_NOMEM};
    static const int alerts[] = {48, 48, 80, 80};
    psi_x509_chain anchors = PSI_ZERO, nobody = PSI_ZERO;
    psi_x509_chain c = PSI_ZERO;
    struct rlimit all, none;
    size_t len;
    int i;
    char *text = load("self.pem", &len);
    REQUIRE(text != NULL);
    CHECK_INT(psi_x509_load(&c, PSI_X509_CHAIN, text, len, "the certificate chain", NULL), 0);
    psi_free(text);
    text = load("ca.pem", &len);
    REQUIRE(text != NULL);
    CHECK_INT(psi_x509_load(&anchors, PSI_X509_ANCHORS, text, len, "", NULL), 0);
    psi_free(text);
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &all), 0);
    none = all;
    none.rlim_cur = 0;
    psi_x509_cleanup();
    for (i = 0; i < 4; i++) {
        psi_x509_query q = PSI_ZERO;
        psocket_error e = PSI_ZERO;
        int r;
        q.anchors = i ? &nobody : &anchors;
        q.until = INT64_MAX;
        setenv("SSL_CERT_FILE", i == 1 ? "/nonexistent" : "/dev/null", 1);
        memory_left = i == 3 ? 0 : -1;
        if (i == 2) CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
        r = psi_x509_verify(&q, &c, &e);
        memory_left = -1;
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &all), 0);
        CHECK_INT(r, codes[i]);
        CHECK_INT(e.tls_alert, alerts[i]);
        CHECK(q.until == c.certs[0].not_after);
    }
    unsetenv("SSL_CERT_FILE");
    psi_x509_chain_free(&anchors);
    psi_x509_chain_free(&c);
}

TEST(far_dates)
{
    static const int64_t times[] = {INT64_MIN, INT64_MAX};
    psi_x509_chain anchors = PSI_ZERO;
    psi_x509_query q = PSI_ZERO;
    psi_x509_chain c = PSI_ZERO;
    psocket_error e = PSI_ZERO;
    size_t len, i;
    char *text = load("self.pem", &len);
    REQUIRE(text != NULL);
    CHECK_INT(psi_x509_load(&anchors, PSI_X509_ANCHORS, text, len, "", &e), 0);
    CHECK_INT(psi_x509_load(&c, PSI_X509_CHAIN, text, len, "the certificate chain", &e), 0);
    q.anchors = &anchors;
    for (i = 0; i < 2; i++) {
        q.now = times[i];
        CHECK_INT(psi_x509_verify(&q, &c, &e), i ? PSOCKET_CERT_EXPIRED : PSOCKET_CERT_NOT_YET_VALID);
        CHECK(strchr(e.text, '-') == NULL);
    }
    psi_x509_chain_free(&c);
    psi_x509_chain_free(&anchors);
    psi_free(text);
}
