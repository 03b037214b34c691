/* Hellos: the body of a ClientHello for a server, or of a ServerHello (or HelloRetryRequest) for a client that has sent its own.
 * The first byte chooses version (bit 0), client certificates (1), the receiver (2: the client), the record's length (3). */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kit_wire w;
    static kit_bytes m, b;
    int how = size ? data[0] : 0;
    size_t i, n;
    kit_end *to;
    if (size) data++, size--;
    if (size > 65536) return 0;
    fuzz_begin(&w, how);
    to = how & 4 ? w.ends.client : w.ends.server;
    m.n = b.n = 0;
    kit_handshake(&m, how & 4 ? 2 : 1, data, size);
    for (i = 0; i < m.n; i += n) {
        n = m.n - i < (how & 8 ? 100u : 16384u) ? m.n - i : how & 8 ? 100 : 16384;
        kit_record(&b, 22, m.p + i, n);
        if (b.n > 60000 || i + n == m.n) {
            kit_feed(to, b.p, b.n);
            b.n = 0;
        }
    }
    if (how & 4) kit_pass(&w, 0, NULL);
    fuzz_finish(&w);
    return 0;
}
