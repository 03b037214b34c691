/* Bytes as they come, in each state of a handshake. The first byte chooses the version (bit 0), client certificates (1), the
 * receiver (2: the client) and how many good flights have passed (3, 4, 5); the others are what comes next. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kit_wire w;
    int how = size ? data[0] : 0, flights = how >> 3 & 7, i;
    size_t piece, n;
    kit_end *to;
    if (size) data++, size--;
    if (size > 40000) return 0;
    fuzz_begin(&w, how);
    for (i = 0; i < flights; i++) kit_pass(&w, i % 2, NULL);
    to = how & 4 ? w.ends.client : w.ends.server;
    piece = size ? 1 + data[size - 1] % 64u * 17u : 1;
    for (; size && !to->closed; size -= n, data += n) {
        n = size < piece ? size : piece;
        kit_feed(to, data, n);
        if (!to->status) fuzz_drain(to);
    }
    fuzz_finish(&w);
    return 0;
}
