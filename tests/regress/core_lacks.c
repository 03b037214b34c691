/* A lack of descriptors was told as a name that cannot be resolved or a folder that cannot be read, and a folder of
   SSL_CERT_DIR was passed over in silence; with room for one address alone, "localhost" was a bad host. White box. */
#include <errno.h>
#include <netdb.h>
#include <string.h>

static int core_lack; /* what the system is short of; 0: nothing */

static int core_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    errno = core_lack;
    return core_lack ? EAI_SYSTEM : getaddrinfo(strcmp(host, "named.test") ? host : "127.0.0.1", service, hints, out);
}

#define getaddrinfo core_getaddrinfo
#define PSOCKET_ADDRESSES 1
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#undef getaddrinfo
#include "core.h"
#include <sys/resource.h>

TEST(of_a_name)
{
    static const struct { int lack, code; } table[] = {
        { EMFILE, PSOCKET_DESCRIPTORS }, { ENFILE, PSOCKET_DESCRIPTORS }, { ENOMEM, PSOCKET_NOMEM }, { EIO, PSOCKET_DNS }, { 0, 0 }
    };
    size_t i;
    int port = 0;
    psocket *l = net_listen("127.0.0.1", &port);
    REQUIRE(l != NULL);
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        psocket_options o = net_options(0);
        psocket *c = NULL;
        core_lack = table[i].lack;
        o.timeout_ms = 5000;
        CHECK_INT(psocket_connect(&c, "named.test", port, &o), table[i].code);
        psocket_free(c);
    }
    psocket_free(l);
}

static int core_each(void *ctx, const void *data, size_t len)
{
    (void)ctx, (void)data, (void)len;
    return 1;
}

TEST(of_a_folder)
{
    struct rlimit before, none;
    psocket_error e;
    psocket_tls_options t;
    psocket_tls *tls = NULL;
    int os = 0, dir, in_env, settings;
    memset(&t, 0, sizeof t);
    memset(&e, 0, sizeof e);
    t.ca_dir = check_certs();
    unsetenv("SSL_CERT_FILE");
    setenv("SSL_CERT_DIR", check_certs(), 1);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = before;
    none.rlim_cur = 0;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    dir = psi_os_readdir(check_certs(), core_each, NULL, &os);
    in_env = psi_os_systrust(core_each, NULL, &e);
    settings = psocket_tls_new(&tls, &t);
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK_INT(dir, PSOCKET_DESCRIPTORS);
    CHECK_INT(os, EMFILE);
    CHECK_INT(in_env, PSOCKET_DESCRIPTORS);
    CHECK(strstr(e.text, "SSL_CERT_DIR") != NULL);
    CHECK_INT(settings, PSOCKET_DESCRIPTORS);
    setenv("SSL_CERT_DIR", "no/such/folder", 1);
    CHECK_INT(psi_os_systrust(core_each, NULL, &e), PSOCKET_TLS_NO_TRUST);
    CHECK_INT(psi_os_readdir("no/such/folder", core_each, NULL, &os), PSOCKET_FILE);
    CHECK(psi_os_systrust(core_each, NULL, NULL) == PSOCKET_TLS_NO_TRUST);
}

TEST(of_room_for_addresses)
{
    psocket_options o = net_options(0);
    psocket *l = NULL, *c = NULL;
    int port = 0;
    REQUIRE(psocket_listen(&l, NULL, 0, &o) == 0 && psocket_getlocal(l, NULL, 0, &port) == 0);
    CHECK_INT(psocket_connect(&c, "localhost", port, &o), 0);
    psocket_free(c);
    psocket_free(l);
}
