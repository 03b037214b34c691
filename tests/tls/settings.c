/* psocket_tls: what is accepted, what is refused and why, who owns what; psocket_tls_verify. */
#include <pthread.h>
#define PSOCKET_KEYLOG(line) (void)(line) /* the kit's is for one thread */
#include "kit.h"

/* Settings that must be refused with this code and a text that holds word. */
static void refused(kit_settings *s, int code, const char *word)
{
    psocket_tls *tls = (psocket_tls *)(void *)s;
    psocket_error e = {0};
    s->opt.error = &e;
    CHECK_INT(psocket_tls_new(&tls, &s->opt), code);
    CHECK(tls == NULL);
    CHECK_INT(e.code, code);
    if (!strstr(e.text, word)) check_fail(__FILE__, __LINE__, "\"%s\" does not mention \"%s\"", e.text, word);
    s->opt.error = NULL;
    CHECK_INT(psocket_tls_new(&tls, &s->opt), code); /* without a place for the error */
    psocket_tls_free(tls);
}

/* Identities come from files as well; an error names the file. */
TEST(identities_in_files)
{
    kit_settings s;
    psocket_tls *client = kit_client(), *server;
    char cert[1024], key[1024];
    snprintf(cert, sizeof cert, "%s/ec.pem", check_certs());
    snprintf(key, sizeof key, "%s/ec.key", check_certs());
    memset(&s, 0, sizeof s);
    s.opt.identities = s.identities;
    s.opt.identity_count = 1;
    s.identities[0].cert_file = cert;
    s.identities[0].key_file = key;
    server = kit_make(&s);
    REQUIRE(client && server);
    kit_good(client, server, "localhost", 80000, NULL, NULL);
    psocket_tls_free(client);
    psocket_tls_free(server);
    s.identities[0].key_file = "/nonexistent/key";
    refused(&s, PSOCKET_FILE, "/nonexistent/key");
    s.identities[0].key_file = key;
    s.identities[0].cert_file = NULL;
    s.identities[0].chain = "\x30\x03\x02\x01\x01"; /* as a PKCS#12 file begins: not the key is wrong */
    s.identities[0].chain_len = 5;
    refused(&s, PSOCKET_CERT_MALFORMED, "not DER");
    s.identities[0].cert_file = cert;
    s.identities[0].chain = NULL;
    s.identities[0].key_file = "/nonexistent/key";
    s.identities[0].cert_file = "/nonexistent/cert";
    refused(&s, PSOCKET_FILE, "/nonexistent/cert");
    s.identities[0].cert_file = key;
    refused(&s, PSOCKET_TLS_PEM, "identity 0");
    kit_done(&s);
}

TEST(refused_settings)
{
    static const char *const empty[] = {""};
    static const char *const null_name[] = {NULL};
    static char long_name[300];
    const char *too_long[1];
    static const uint8_t pin[32];
    kit_settings s;
    char *chain;
    int i;
    memset(&s, 0, sizeof s);
    memset(long_name, 'a', 256);
    too_long[0] = long_name;
    CHECK_INT(psocket_tls_new(NULL, NULL), PSOCKET_INVALID);
    s.opt.alpn_count = 1;
    refused(&s, PSOCKET_INVALID, "ALPN");
    s.opt.alpn = empty;
    refused(&s, PSOCKET_INVALID, "ALPN");
    s.opt.alpn = null_name;
    refused(&s, PSOCKET_INVALID, "ALPN");
    s.opt.alpn = too_long;
    refused(&s, PSOCKET_INVALID, "ALPN");
    kit_done(&s);
    s.opt.client_auth = 3;
    refused(&s, PSOCKET_INVALID, "client_auth");
    s.opt.client_auth = -1;
    refused(&s, PSOCKET_INVALID, "client_auth");
    kit_done(&s);
    for (i = 0; i < 2; i++) {
        s.opt.max_fragment = i ? 16385 : 63;
        refused(&s, PSOCKET_INVALID, "max_fragment");
        s.opt.max_fragment = 0;
        s.opt.tickets = i ? 17 : -2;
        refused(&s, PSOCKET_INVALID, "tickets");
        s.opt.tickets = 0;
        s.opt.session_cache = i ? 1000001 : -2;
        refused(&s, PSOCKET_INVALID, "session_cache");
        s.opt.session_cache = 0;
    }
    s.opt.ticket_key_count = 1;
    refused(&s, PSOCKET_INVALID, "ticket_keys");
    kit_done(&s);
    s.opt.spki_pin_count = 1;
    refused(&s, PSOCKET_INVALID, "spki_pins");
    s.opt.spki_pins = pin;
    s.opt.insecure_no_verify = 1;
    refused(&s, PSOCKET_INVALID, "insecure_no_verify");
    kit_done(&s);
    s.opt.identity_count = 1;
    refused(&s, PSOCKET_INVALID, "identities");
    s.opt.identities = s.identities;
    refused(&s, PSOCKET_INVALID, "certificate is missing");
    s.identities[0].chain = kit_file(&s, "rsa.pem");
    refused(&s, PSOCKET_INVALID, "key is missing");
    s.identities[0].key = kit_file(&s, "ec.key");
    refused(&s, PSOCKET_TLS_KEY_MISMATCH, "identity 0");
    s.identities[0].key = kit_file(&s, "inter.key");
    refused(&s, PSOCKET_TLS_KEY_MISMATCH, "must come first");
    s.identities[0].key = "not a key";
    refused(&s, PSOCKET_TLS_PEM, "identity 0");
    s.identities[0].key = kit_file(&s, "rsa.key");
    s.identities[0].chain = "not a certificate";
    refused(&s, PSOCKET_TLS_PEM, "identity 0");
    s.identities[0].chain = "";
    refused(&s, PSOCKET_TLS_PEM, "identity 0");
    s.identities[0].chain = kit_file(&s, "rsa.pem");
    s.identities[1].chain = chain = kit_file(&s, "ec.pem");
    s.identities[1].key = kit_file(&s, "rsa.key");
    s.opt.identity_count = 2;
    refused(&s, PSOCKET_TLS_KEY_MISMATCH, "identity 1");
    chain[strlen(chain) / 4] = '!';
    refused(&s, PSOCKET_TLS_PEM, "identity 1");
    kit_done(&s);
    s.opt.ca = "nothing";
    refused(&s, PSOCKET_TLS_PEM, "ca");
    kit_done(&s);
    s.opt.ca_file = "/nonexistent/file.pem";
    refused(&s, PSOCKET_FILE, "/nonexistent/file.pem");
}

TEST(servers_need_an_identity)
{
    psocket_tls *client = kit_client();
    kit_end *h = NULL;
    psocket_error e = {0};
    REQUIRE(client);
    CHECK_INT(kit_new(&h, client, PSOCKET_SERVER, NULL, &e), PSOCKET_TLS_NO_IDENTITY);
    CHECK(h == NULL && e.text[0]);
    CHECK_INT(kit_new(&h, client, PSOCKET_SERVER, NULL, NULL), PSOCKET_TLS_NO_IDENTITY);
    psocket_tls_free(client);
}

KIT_TEST(everything_is_copied, 20)
{
    kit_settings s;
    char name[16] = "first";
    const char *names[1];
    psocket_tls *client = NULL, *server = NULL;
    psocket_tlsinfo ci, si;
    int i;
    names[0] = name;
    for (i = 0; i < 2; i++) {
        memset(&s, 0, sizeof s);
        if (i) kit_identity(&s, "rsa");
        else kit_ca(&s, "ca.pem");
        s.opt.alpn = names;
        s.opt.alpn_count = 1;
        if (i) server = kit_make(&s);
        else client = kit_make(&s);
        while (s.texts) { /* overwrite before freeing */
            char *text = s.text[--s.texts];
            memset(text, 'x', strlen(text));
            free(text);
        }
        memset(&s, 0xEE, sizeof s);
    }
    strcpy(name, "wrong");
    names[0] = NULL;
    REQUIRE(client && server);
    kit_good(client, server, "localhost", 512, &ci, &si);
    CHECK_STR(ci.alpn, "first");
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(owners)
{
    psocket_tls *tls = kit_client();
    kit_end *h = NULL;
    int i;
    CHECK(psocket_tls_retain(tls) == tls);
    psocket_tls_free(tls);
    psocket_tls_free(tls);
    psocket_tls_free(NULL);
    CHECK(psocket_tls_retain(NULL) == NULL);
    for (i = 0; i < 2; i++) { /* the default settings outlive a cleanup while a socket uses them */
        int code = kit_new(&h, NULL, PSOCKET_CLIENT, "localhost", NULL);
        psocket_cleanup();
        psocket_cleanup();
        if (code) CHECK_INT(code, PSOCKET_TLS_NO_TRUST);
        else kit_feed(h, "\26\3\3\0\1", 5);
        if (h) CHECK_INT(kit_status(h, NULL), PSOCKET_WANT_READ);
        kit_free(h);
    }
}

static int verify(kit_settings *s, psocket_tls *tls, const char *file, const char *name, const char *word)
{
    psocket_error e;
    int code;
    memset(&e, 0xEE, sizeof e);
    code = psocket_tls_verify(tls, kit_file(s, file), 0, name, &e);
    CHECK_INT(e.code, code);
    if (code && !strstr(e.text, word)) check_fail(__FILE__, __LINE__, "\"%s\" does not mention \"%s\"", e.text, word);
    CHECK_INT(psocket_tls_verify(tls, kit_file(s, file), 0, name, NULL), code);
    return code;
}

static int64_t fixed_time;
static int64_t fixed_clock(void *user)
{
    CHECK(user == &fixed_time);
    return fixed_time;
}

TEST(verify_a_chain)
{
    kit_settings s, texts;
    psocket_tls *tls = kit_client();
    psocket_error e = {0};
    memset(&texts, 0, sizeof texts);
    REQUIRE(tls);
    CHECK_INT(verify(&texts, tls, "rsa.pem", "localhost", ""), 0);
    CHECK_INT(verify(&texts, tls, "ec.pem", "x.wild.test", ""), 0);
    CHECK_INT(verify(&texts, tls, "ec.pem", "127.0.0.1", ""), 0);
    CHECK_INT(verify(&texts, tls, "ec.pem", "other.test", "other.test"), PSOCKET_CERT_NAME);
    kit_done(&texts);
    CHECK_INT(verify(&texts, tls, "untrusted.pem", "localhost", "trust"), PSOCKET_CERT_UNTRUSTED);
    CHECK_INT(verify(&texts, tls, "expired.pem", "localhost", "expired"), PSOCKET_CERT_EXPIRED);
    CHECK_INT(verify(&texts, tls, "ec.pem", NULL, "name"), PSOCKET_INVALID);
    CHECK_INT(verify(&texts, tls, "ec.pem", "", "name"), PSOCKET_INVALID);
    CHECK_INT(verify(&texts, tls, "ec.key", "localhost", "certificate"), PSOCKET_TLS_PEM);
    CHECK_INT(psocket_tls_verify(tls, NULL, 0, "localhost", &e), PSOCKET_INVALID);
    psocket_tls_free(tls);
    kit_done(&texts);
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.clock = fixed_clock;
    s.opt.clock_user = &fixed_time;
    s.opt.insecure_no_name = 1;
    tls = kit_make(&s);
    kit_done(&s);
    REQUIRE(tls);
    fixed_time = 0;
    CHECK_INT(verify(&texts, tls, "ec.pem", NULL, "not valid"), PSOCKET_CERT_NOT_YET_VALID);
    fixed_time = (int64_t)time(NULL);
    CHECK_INT(verify(&texts, tls, "ec.pem", NULL, ""), 0);
    fixed_time += (int64_t)100 * 366 * 86400;
    CHECK_INT(verify(&texts, tls, "ec.pem", NULL, "expired"), PSOCKET_CERT_EXPIRED);
    psocket_tls_free(tls);
    kit_done(&texts);
    memset(&s, 0, sizeof s);
    s.opt.insecure_no_verify = 1;
    tls = kit_make(&s);
    REQUIRE(tls);
    CHECK_INT(verify(&texts, tls, "untrusted.pem", NULL, ""), 0);
    psocket_tls_free(tls);
    kit_done(&texts);
}

/* Many threads, one pair of settings: references, sessions and the default settings. */
static psocket_tls *shared_client, *shared_server;

static void *work(void *arg)
{
    int i;
    for (i = 0; i < 12; i++) {
        char name[32];
        psocket_tlsinfo ci, si;
        snprintf(name, sizeof name, "t%d.wild.test", i % 4);
        kit_good(shared_client, shared_server, name, 100000, &ci, &si);
        CHECK(psocket_tls_savesessions(NULL, NULL, 0) != 0); /* makes the default settings, or says that there is no trust */
    }
    return arg;
}

KIT_TEST(settings_are_shared_between_threads, 60)
{
    pthread_t t[4];
    int i;
    shared_client = kit_client();
    shared_server = kit_server("ec");
    REQUIRE(shared_client && shared_server);
    for (i = 0; i < 4; i++) REQUIRE(pthread_create(&t[i], NULL, work, NULL) == 0);
    for (i = 0; i < 4; i++) pthread_join(t[i], NULL);
    psocket_tls_free(shared_client);
    psocket_tls_free(shared_server);
    psocket_cleanup();
}
