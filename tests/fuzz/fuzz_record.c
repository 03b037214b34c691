/* Records behind a handshake. The first byte chooses version (bit 0), suite (1, 2), the receiver (3: the client), and raw bytes (4) or
 * records that are well encrypted: type, length, padding, plaintext; a length of 255 stands for a large one. */
#include "fuzz.h"

static psocket_tls *with_suite(int kind, int how)
{
    static const char *const suites[2][4] = {
        {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
         "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
        {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}};
    fuzz_suites = suites[kit_version == 0x0304][how >> 1 & 3];
    return fuzz_settings(kind, kit_version);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kit_wire w;
    static kit_bytes b;
    static uint8_t plain[18000];
    int how = size ? data[0] : 0, records = 0;
    kit_end *to;
    if (size) data++, size--;
    if (size > 40000) return 0;
    kit_version = how & 1 ? 0x0304 : 0x0303;
    kit_secret_count = 0;
    kit_seed(31);
    if (!kit_wire_begin(&w, with_suite(FUZZ_CLIENT, how), with_suite(FUZZ_SERVER, how)) || !kit_wire_run(&w)) abort();
    to = how & 8 ? w.ends.client : w.ends.server;
    if (how & 16) {
        kit_feed(to, data, size);
        fuzz_drain(to);
    }
    while (!(how & 16) && size >= 3 && records++ < 60 && !to->closed) {
        size_t n = data[1] == 255 ? 16000 + data[2] * 4u : data[1] < size - 3 ? data[1] : size - 3;
        size_t have = n < size - 3 ? n : size - 3;
        memset(plain, data[0], sizeof plain);
        memcpy(plain, data + 3, have);
        b.n = 0;
        kit_seal(&w.key[how >> 3 & 1], &b, 20 + data[0] % 5, plain, n, data[1] == 255 ? 0 : data[2]);
        kit_feed(to, b.p, b.n);
        fuzz_drain(to);
        data += 3 + have;
        size -= 3 + have;
    }
    fuzz_finish(&w);
    return 0;
}
