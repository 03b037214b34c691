/* fuzz.h - what the TLS fuzz targets share: settings with a certificate of their own, a fixed clock and fixed random
 * numbers, so that the same input is the same connection. */
#ifndef FUZZ_H
#define FUZZ_H

#define KIT_FUZZ
#define KIT_NAME "fuzz.test"
#include "tls/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A self-signed certificate that is trusted, for fuzz.test. */
static const char fuzz_cert[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBojCCAUigAwIBAgIUcnaJwNvSuAQxiorTPEm8TGPgOS4wCgYIKoZIzj0EAwIw\n"
    "FDESMBAGA1UEAwwJZnV6ei50ZXN0MCAXDTI2MTEyMjE4NDQ1MVoYDzIxMjYxMDI5\n"
    "MTg0NDUxWjAUMRIwEAYDVQQDDAlmdXp6LnRlc3QwWTATBgcqhkjOPQIBBggqhkjO\n"
    "PQMBBwNCAAS4HgwLt9bDLohlXyuCrISgnPIwBWCjcx38HggcvY46ob1aMWQlQFcz\n"
    "SDyUKJTQeA6/shoYh00qRMbcSu2JgBFvo3YwdDAdBgNVHQ4EFgQUEghlaaTyZJt9\n"
    "UN7MgUWg2U3zPG4wHwYDVR0jBBgwFoAUEghlaaTyZJt9UN7MgUWg2U3zPG4wFAYD\n"
    "VR0RBA0wC4IJZnV6ei50ZXN0MA4GA1UdDwEB/wQEAwIHgDAMBgNVHRMBAf8EAjAA\n"
    "MAoGCCqGSM49BAMCA0gAMEUCIEktnpUGZ+iVycb9RH4zKhF0kBQwcSEgV/Mpv5UU\n"
    "ft07AiEA9ghOvXX0MsC8WziYDcInBwrfU6K/ypgRyHdpuS9/m8E=\n"
    "-----END CERTIFICATE-----\n";
static const char fuzz_key[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgo58d7ovnWCzpBQyc\n"
    "wjnG+0wp79kQcDYN+carXBR+QV6hRANCAAS4HgwLt9bDLohlXyuCrISgnPIwBWCj\n"
    "cx38HggcvY46ob1aMWQlQFczSDyUKJTQeA6/shoYh00qRMbcSu2JgBFv\n"
    "-----END PRIVATE KEY-----\n";

static CHECK_UNUSED int64_t fuzz_clock(void *user)
{
    (void)user;
    return 1800000000;
}

enum { FUZZ_CLIENT, FUZZ_SERVER, FUZZ_ASKING }; /* the last is a server that wants a certificate */

static CHECK_UNUSED const char *fuzz_suites; /* NULL: all */

/* New settings of this kind and TLS version, without sessions. */
static CHECK_UNUSED psocket_tls *fuzz_settings(int kind, int version)
{
    static const char *const names[] = {"h2", "http/1.1"};
    kit_settings s;
    psocket_tls *tls = NULL;
    memset(&s, 0, sizeof s);
    kit_version = version;
    s.identities[0].chain = fuzz_cert;
    s.identities[0].key = fuzz_key;
    s.opt.ca = fuzz_cert;
    s.opt.identities = s.identities;
    s.opt.identity_count = 1;
    s.opt.alpn = names;
    s.opt.alpn_count = 2;
    s.opt.suites = fuzz_suites;
    s.opt.clock = fuzz_clock;
    s.opt.client_auth = kind == FUZZ_ASKING ? PSOCKET_CLIENT_AUTH_REQUIRED : PSOCKET_CLIENT_AUTH_NONE;
    s.opt.insecure_no_verify = kind == FUZZ_ASKING; /* the certificate is a server's */
    kit_versions(&s);
    if (psocket_tls_new(&tls, &s.opt)) abort();
    return tls;
}

/* Whatever has happened: a code, and words for it. */
static CHECK_UNUSED void fuzz_check(const kit_end *h)
{
    psocket_error e = {0};
    int status = kit_status(h, &e);
    if (status < PSOCKET_WANT_WRITE && (e.code != status || !e.text[0])) abort();
}

/* Reads until there is nothing to read. */
static CHECK_UNUSED void fuzz_drain(kit_end *h)
{
    const void *data;
    int i;
    for (i = 0; i < 1000 && psocket_recv(h->s, &data) >= 0; i++) continue;
    if (i == 1000) abort();
}

static CHECK_UNUSED void fuzz_finish(kit_wire *w)
{
    fuzz_check(w->ends.client);
    fuzz_check(w->ends.server);
    if (!w->ends.client->status) fuzz_drain(w->ends.client);
    if (!w->ends.server->status) fuzz_drain(w->ends.server);
    kit_wire_end(w);
}

/* Version and roles as a byte of input says: 1.2 or 1.3 in bit 0, with client certificates in bit 1. */
static CHECK_UNUSED void fuzz_begin(kit_wire *w, int how)
{
    int version = how & 1 ? 0x0304 : 0x0303;
    psocket_tls *server = fuzz_settings(how & 2 ? FUZZ_ASKING : FUZZ_SERVER, version);
    kit_secret_count = 0;
    kit_seed(31);
    if (!kit_wire_begin(w, fuzz_settings(FUZZ_CLIENT, version), server)) abort();
}

#endif
