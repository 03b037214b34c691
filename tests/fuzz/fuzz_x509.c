/* Certificates, chains, keys and trust anchors from hostile bytes. The input is a text of PEM blocks, or DER; each part
 * of the parser that takes such a text gets it, and what it loads is verified against itself and against one anchor. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"example.org", "a.b.example.org", "192.0.2.1", "2001:db8::1", "", "-", NULL};
    psocket_error err;
    psi_x509_chain chain = PSI_ZERO;
    psi_x509_key key;
    psi_x509_chain anchors = PSI_ZERO;
    char text[512];
    size_t i;
    int has_key;
    (void)psi_x509_load_any(&anchors, data, size);
    (void)psi_x509_load(&chain, PSI_X509_CHAIN, data, size, "", &err);
    has_key = psi_x509_key_load(&key, data, size, &err) == 0;
    for (i = 0; i < chain.count && i < 8; i++) {
        const psi_x509_cert *c = &chain.certs[i];
        psocket_certinfo info;
        psi_x509_host host;
        psi_x509_info(c, &info, text, sizeof text);
        psi_x509_info(c, &info, text, 7);
        (void)psi_x509_usable(c, &err);
        if (psi_x509_host_parse(&host, "a.example.org")) (void)psi_x509_names(c, &host);
        if (has_key && key.type == BR_KEYTYPE_EC) (void)psi_x509_key_matches(&key, c);
    }
    for (i = 0; anchors.count && i < sizeof names / sizeof *names; i++) { /* without, the system's would be used */
        psi_x509_query q;
        int r;
        memset(&q, 0, sizeof q);
        q.anchors = &anchors;
        q.name = names[i];
        q.now = 1800000000;
        q.client = i & 1;
        r = psi_x509_verify(&q, &chain, &err);
        if (r != err.code && r) abort();
        if (r && (!err.text[0] || !psocket_codename(r) || err.cert_index >= (int)chain.count)) abort();
        if (!chain.count) break;
        if (anchors.count > 1 && i == 2) { /* from now on, only the last one is trusted */
            psi_x509_cert last = anchors.certs[--anchors.count];
            while (anchors.count) psi_free((void *)(uintptr_t)anchors.certs[--anchors.count].der.p);
            anchors.certs[anchors.count++] = last;
        }
    }
    if (has_key) psi_x509_key_free(&key);
    psi_x509_chain_free(&chain);
    psi_x509_chain_free(&anchors);
    return 0;
}
