/* ClientHello and ServerHello, well and badly formed, and what is said about them. */
#include "kit.h"

static psocket_tls *server_tls;

#define NEITHER 47 /* RFC 8446 4.2.1: less than 1.3 is not selected there */
#define TWICE 50 /* decode_error, whatever was offered */

/* A ClientHello of parts. */
typedef struct parts {
    size_t version, session, suite, compression;
    kit_bytes extensions;
    int scsv, no_extensions;
} parts;

static void extension(parts *h, size_t type, const void *p, size_t n)
{
    kit_number(&h->extensions, type, 2);
    kit_number(&h->extensions, n, 2);
    kit_put(&h->extensions, p, n);
}

static void good(parts *h)
{
    memset(h, 0, sizeof *h);
    h->version = 0x0303;
    h->suite = 0xC02B;
    extension(h, 10, "\0\4\0\27\0\35", 6);   /* P-256, X25519 */
    extension(h, 13, "\0\4\4\3\4\1", 6);     /* SHA-256 with ECDSA, RSA */
}

static void make_hello(const parts *h, kit_bytes *out)
{
    static uint8_t random[32];
    static kit_bytes m, all;
    size_t at, n;
    m.n = 0;
    kit_number(&m, h->version, 2);
    kit_put(&m, random, 32);
    kit_number(&m, h->session, 1);
    kit_put(&m, random, h->session < 32 ? h->session : 32);
    kit_number(&m, h->scsv ? 4 : 2, 2);
    kit_number(&m, h->suite, 2);
    if (h->scsv) kit_number(&m, 0x5600, 2);
    kit_number(&m, 1, 1);
    kit_number(&m, h->compression, 1);
    if (!h->no_extensions) {
        kit_number(&m, h->extensions.n, 2);
        kit_put(&m, h->extensions.p, h->extensions.n);
    }
    all.n = out->n = 0;
    kit_handshake(&all, 1, m.p, m.n);
    for (at = 0; at < all.n; at += n) {
        n = all.n - at < 16384 ? all.n - at : 16384;
        kit_record(out, 22, all.p + at, n);
    }
}

static kit_end *send_hello(const parts *h)
{
    kit_end *s = NULL;
    psocket_error e = {0};
    static kit_bytes b;
    if (kit_new(&s, server_tls, PSOCKET_SERVER, NULL, &e)) {
        check_fail(__FILE__, __LINE__, "psi_hs_new: %s", e.text);
        return NULL;
    }
    make_hello(h, &b);
    kit_feed(s, b.p, b.n);
    return s;
}

static void refused(const parts *h, int code, int alert, const char *what)
{
    kit_end *s = send_hello(h);
    if (!s) return;
    kit_failed(s, code, alert, what);
    kit_free(s);
}

static void accepted(const parts *h, const char *what)
{
    kit_end *s = send_hello(h);
    psocket_error e = {0};
    if (!s) return;
    if (kit_status(s, &e) != PSOCKET_WANT_READ) check_fail(__FILE__, __LINE__, "%s: %s", what, e.text);
    kit_free(s);
}

/* What a server of TLS 1.2 says to hellos. */
TEST(client_hellos)
{
    static const char *const alpn[] = {"http/1.1"};
    kit_settings s;
    static parts h;
    uint8_t big[600];
    size_t i;
    memset(&s, 0, sizeof s);
    memset(big, 'a', sizeof big);
    kit_version = 0x0303;
    kit_identity(&s, "ec");
    s.opt.alpn = alpn;
    s.opt.alpn_count = 1;
    server_tls = kit_make(&s);
    kit_done(&s);
    REQUIRE(server_tls);

    good(&h); accepted(&h, "plain");
    good(&h); h.version = 0x0304; accepted(&h, "a higher version");
    good(&h); h.version = 0x03FF; accepted(&h, "a much higher version");
    good(&h); h.session = 32; accepted(&h, "a session");
    good(&h); h.scsv = 1; accepted(&h, "TLS_FALLBACK_SCSV with our highest version");
    good(&h); extension(&h, 0xAAAA, "x", 1); extension(&h, 0x1234, NULL, 0); accepted(&h, "unknown extensions");
    good(&h); extension(&h, 0, "\0\17\0\0\14example.test", 17); accepted(&h, "a name");
    good(&h); extension(&h, 16, "\0\11\10http/1.1", 11); accepted(&h, "a protocol");
    good(&h); extension(&h, 16, "\0\14\2h2\10http/1.1", 14); accepted(&h, "two protocols");
    good(&h); extension(&h, 1, "\1", 1); accepted(&h, "512-byte fragments");
    good(&h); extension(&h, 11, "\2\1\0", 3); accepted(&h, "point formats");
    good(&h); extension(&h, 43, "\4\3\4\3\3", 5); accepted(&h, "1.3 and 1.2");
    good(&h); extension(&h, 0xFF01, "\0", 1); accepted(&h, "renegotiation_info");

    good(&h); h.version = 0x0302; refused(&h, PSOCKET_TLS_VERSION, 70, "TLS 1.1");
    good(&h); h.version = 0x0301; refused(&h, PSOCKET_TLS_VERSION, 70, "TLS 1.0");
    good(&h); h.version = 0x0300; refused(&h, PSOCKET_TLS_VERSION, 70, "SSL 3.0");
    good(&h); h.version = 0x0002; refused(&h, PSOCKET_TLS_VERSION, 70, "SSL 2.0");
    good(&h); h.version = 0x0302; h.scsv = 1; refused(&h, PSOCKET_TLS_VERSION, 86, "a fallback, RFC 7507");
    good(&h); extension(&h, 43, "\2\3\4", 3); refused(&h, PSOCKET_TLS_VERSION, 70, "1.3 only");
    good(&h); extension(&h, 43, "\3\3\4\3", 4); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "odd supported_versions");
    good(&h); h.suite = 0x002F; refused(&h, PSOCKET_TLS_HANDSHAKE, 40, "static RSA");
    good(&h); h.suite = 0xC009; refused(&h, PSOCKET_TLS_HANDSHAKE, 40, "CBC");
    good(&h); h.suite = 0xC02F; refused(&h, PSOCKET_TLS_HANDSHAKE, 40, "RSA for an EC server");
    good(&h); h.compression = 1; refused(&h, PSOCKET_TLS_PROTOCOL, 47, "no null compression");
    good(&h); h.session = 33; refused(&h, PSOCKET_TLS_PROTOCOL, 50, "a long session ID");
    good(&h); h.no_extensions = 1; refused(&h, PSOCKET_TLS_HANDSHAKE, 40, "no signature algorithms: SHA-1");
    good(&h); extension(&h, 10, "\0\2\0\27", 4); refused(&h, PSOCKET_TLS_PROTOCOL, TWICE, "two lists of curves");
    good(&h); extension(&h, 0xAAAA, NULL, 0); extension(&h, 0xAAAA, NULL, 0); refused(&h, PSOCKET_TLS_PROTOCOL, TWICE, "an unknown extension twice");
    good(&h); extension(&h, 0, "\0\4\0\0\1a\0", 7); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "bytes behind the name list");
    good(&h); extension(&h, 0, "\0\0", 2); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "no name");
    good(&h); extension(&h, 0, NULL, 0); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "no list of names");
    good(&h); extension(&h, 0, "\0\3\0\0\0", 5); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "an empty name");
    good(&h); extension(&h, 0, "\0\10\0\0\1a\0\0\1b", 10); refused(&h, PSOCKET_TLS_PROTOCOL, TWICE, "two names");
    good(&h); extension(&h, 0, "\0\6\0\0\3a\0b", 8); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "a NUL in the name");
    good(&h); extension(&h, 0, "\0\4\0\0\377a", 6); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "a name that is cut off");
    good(&h); big[0] = 1; big[1] = 3; big[2] = 0; big[3] = 1; big[4] = 0; extension(&h, 0, big, 261);
    refused(&h, PSOCKET_TLS_PROTOCOL, 50, "a name of 256 bytes");
    good(&h); extension(&h, 1, "\5", 1); refused(&h, PSOCKET_TLS_PROTOCOL, 47, "fragments of an unknown size");
    good(&h); extension(&h, 1, "\0", 1); refused(&h, PSOCKET_TLS_PROTOCOL, 47, "fragments of size 0");
    good(&h); extension(&h, 1, "\1\1", 2); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "two sizes");
    good(&h); extension(&h, 11, "\1\1", 2); refused(&h, PSOCKET_TLS_PROTOCOL, 47, "no uncompressed points");
    good(&h); extension(&h, 11, "\0", 1); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "no point formats");
    good(&h); extension(&h, 16, "\0\3\2h2", 5); refused(&h, PSOCKET_TLS_ALPN, 120, "another protocol");
    good(&h); extension(&h, 16, "\0\0", 2); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "no protocol");
    good(&h); extension(&h, 16, "\0\1\0", 3); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "an empty protocol");
    good(&h); extension(&h, 16, "\0\3\3h2", 5); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "a protocol that is cut off");
    good(&h); extension(&h, 16, "\0\3\2h2x", 6); refused(&h, PSOCKET_TLS_PROTOCOL, 50, "bytes behind the protocols");
    good(&h); extension(&h, 0xFF01, "\1x", 2); refused(&h, PSOCKET_TLS_PROTOCOL, 40, "a renegotiation");
    good(&h); h.extensions.n = 0; extension(&h, 13, "\0\4\4\3\4\1", 6); extension(&h, 10, "\0\2\0\36", 4);
    refused(&h, PSOCKET_TLS_HANDSHAKE, 40, "X448 only");
    good(&h); h.extensions.n = 0; extension(&h, 13, "\0\4\4\3\4\1", 6); extension(&h, 10, "\0\3\0\27\0", 5);
    refused(&h, PSOCKET_TLS_PROTOCOL, 50, "half a curve");
    good(&h); h.extensions.n = 0; extension(&h, 10, "\0\4\0\27\0\35", 6); extension(&h, 13, "\0\4\2\3\2\1", 6);
    refused(&h, PSOCKET_TLS_HANDSHAKE, 40, "SHA-1 only");
    good(&h); h.extensions.n = 0; extension(&h, 10, "\0\4\0\27\0\35", 6); extension(&h, 13, "\0\0", 2);
    refused(&h, PSOCKET_TLS_PROTOCOL, 50, "no signature algorithms in the list");
    good(&h); h.extensions.n--; refused(&h, PSOCKET_TLS_PROTOCOL, 50, "an extension that is cut off");
    good(&h); for (i = 0; i < 300; i++) extension(&h, 0x4000 + i, NULL, 0);
    accepted(&h, "300 extensions");
    good(&h); while (h.extensions.n < 65532) extension(&h, 0x4000 + h.extensions.n / 4, NULL, 0);
    accepted(&h, "as many extensions as there can be");
    {
        kit_end *c = NULL;
        psocket_error e = {0};
        REQUIRE(!kit_new(&c, server_tls, PSOCKET_SERVER, NULL, &e));
        kit_feed(c, "\26\3\1\0\4\1\1\20\1", 9);
        kit_failed(c, PSOCKET_TLS_PROTOCOL, 50, "a hello of 68 KB and a byte");
        kit_free(c);
    }
    psocket_tls_free(server_tls);
}

/* --- what a server may not answer --------------------------------------------------------------------------------- */

static psocket_tls *client_tls;
static kit_bytes server_hello; /* of a real answer, as a message */

static int server_hello_begin(kit_end **c, const char *const *alpn, size_t alpn_count)
{
    kit_settings s;
    kit_end *server = NULL;
    psocket_error e = {0};
    static kit_bytes b, m;
    size_t at, len;
    kit_version = 0x0303;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.alpn = alpn;
    s.opt.alpn_count = alpn_count;
    client_tls = kit_make(&s);
    kit_done(&s);
    memset(&s, 0, sizeof s);
    kit_identity(&s, "ec");
    s.opt.alpn = alpn;
    s.opt.alpn_count = alpn_count;
    server_tls = kit_make(&s);
    kit_done(&s);
    if (!client_tls || !server_tls || kit_new(c, client_tls, PSOCKET_CLIENT, "localhost", &e) || kit_new(&server, server_tls, PSOCKET_SERVER, NULL, &e)) {
        check_fail(__FILE__, __LINE__, "%s", e.text);
        return 0;
    }
    kit_take(*c, &b);
    kit_feed(server, b.p, b.n);
    kit_take(server, &b);
    kit_free(server);
    kit_messages(&b, &m, NULL);
    len = kit_message(&m, 0, &at);
    server_hello.n = 0;
    kit_put(&server_hello, m.p + at, len);
    return 1;
}

enum { SESSION = 4 + 2 + 32, SUITE = 1000 }; /* where they are: the suite's place hangs on the session ID */

/* Feeds the hello, with lengths put right for extra bytes of extensions. */
static void server_says(const char *const *alpn, size_t alpn_count, int drop_extensions, const void *extra, size_t n, size_t at,
                        size_t value, size_t bytes, int code, int alert, const char *what)
{
    kit_end *c = NULL;
    static kit_bytes b;
    size_t ext;
    REQUIRE(server_hello_begin(&c, alpn, alpn_count));
    ext = SESSION + 1 + (size_t)server_hello.p[SESSION] + 2 + 1;
    if (at >= SUITE) at = at - SUITE + SESSION + 1 + server_hello.p[SESSION];
    if (drop_extensions) server_hello.n = ext + 2;
    kit_put(&server_hello, extra, n);
    server_hello.p[ext] = (uint8_t)((server_hello.n - ext - 2) >> 8);
    server_hello.p[ext + 1] = (uint8_t)(server_hello.n - ext - 2);
    server_hello.p[2] = (uint8_t)((server_hello.n - 4) >> 8);
    server_hello.p[3] = (uint8_t)(server_hello.n - 4);
    while (bytes--) server_hello.p[at++] = (uint8_t)(value >> 8 * bytes);
    b.n = 0;
    kit_record(&b, 22, server_hello.p, server_hello.n);
    kit_feed(c, b.p, b.n);
    if (code) {
        kit_failed(c, code, alert, what);
    } else {
        psocket_error e = {0};
        if (kit_status(c, &e) != PSOCKET_WANT_READ) check_fail(__FILE__, __LINE__, "%s: %s", what, e.text);
    }
    kit_free(c);
    psocket_tls_free(client_tls);
    psocket_tls_free(server_tls);
}

TEST(server_hellos)
{
    static const char *const alpn[] = {"h2", "http/1.1"};
    enum { PROTOCOL = PSOCKET_TLS_PROTOCOL };
    server_says(alpn, 2, 0, NULL, 0, 0, 0, 0, 0, 0, "as it was");
    server_says(NULL, 0, 0, NULL, 0, 0, 0, 0, 0, 0, "as it was, without ALPN");
    server_says(alpn, 2, 1, NULL, 0, 0, 0, 0, 0, 0, "no extensions");
    server_says(alpn, 2, 1, "\0\20\0\13\0\11\10http/1.1", 15, 0, 0, 0, 0, 0, "the other protocol");
    server_says(alpn, 2, 1, "\0\20\0\7\0\5\4imap", 11, 0, 0, 0, PSOCKET_TLS_ALPN, 47, "a protocol that was not offered");
    server_says(alpn, 2, 1, "\0\20\0\10\0\6\2h2\2h2", 12, 0, 0, 0, PROTOCOL, 50, "two protocols");
    server_says(alpn, 2, 1, "\0\20\0\2\0\0", 6, 0, 0, 0, PROTOCOL, 50, "no protocol");
    server_says(alpn, 2, 1, "\0\20\0\3\0\1\0", 7, 0, 0, 0, PROTOCOL, 50, "an empty protocol");
    server_says(NULL, 0, 1, "\0\20\0\5\0\3\2h2", 9, 0, 0, 0, PROTOCOL, 110, "ALPN that was not asked for");
    server_says(alpn, 2, 0, "\0\20\0\5\0\3\2h2", 9, 0, 0, 0, PROTOCOL, TWICE, "ALPN twice");
    server_says(NULL, 0, 1, "\377\1\0\1\0\377\1\0\1\0", 10, 0, 0, 0, PROTOCOL, TWICE, "renegotiation_info twice");
    server_says(NULL, 0, 1, "\377\1\0\2\1x", 6, 0, 0, 0, PROTOCOL, 40, "renegotiation_info that is not empty");
    server_says(NULL, 0, 0, "\22\64\0\0", 4, 0, 0, 0, PROTOCOL, 110, "an extension that nobody knows");
    server_says(NULL, 0, 0, "\0\1\0\1\1", 5, 0, 0, 0, PROTOCOL, 110, "max_fragment_length, which was not offered");
    server_says(NULL, 0, 0, "\0\53\0\2\3\4", 6, 0, 0, 0, PROTOCOL, NEITHER, "supported_versions of TLS 1.2");
    server_says(NULL, 0, 0, "\0\0\0\1x", 5, 0, 0, 0, PROTOCOL, 50, "a server name that is not empty");
    server_says(NULL, 0, 0, "\0\0\0", 3, 0, 0, 0, PROTOCOL, 50, "an extension that is cut off");
    server_says(NULL, 0, 0, NULL, 0, 4, 0x0302, 2, PSOCKET_TLS_VERSION, 70, "TLS 1.1");
    server_says(NULL, 0, 0, NULL, 0, 4, 0x0301, 2, PSOCKET_TLS_VERSION, 70, "TLS 1.0");
    server_says(NULL, 0, 0, NULL, 0, 4, 0x0304, 2, PSOCKET_TLS_VERSION, 70, "TLS 1.3, in the wrong place");
    server_says(NULL, 0, 0, NULL, 0, SUITE, 0x002F, 2, PROTOCOL, 47, "a suite that was not offered");
    server_says(NULL, 0, 0, NULL, 0, SUITE, 0x1301, 2, PROTOCOL, 47, "a suite of TLS 1.3");
    server_says(NULL, 0, 0, NULL, 0, SUITE, 0x00FF, 2, PROTOCOL, 47, "a signalling suite");
    server_says(NULL, 0, 0, NULL, 0, SUITE + 2, 1, 1, PROTOCOL, 47, "compression");
    server_says(NULL, 0, 0, NULL, 0, SESSION, 33, 1, PROTOCOL, 50, "a long session ID");
}
