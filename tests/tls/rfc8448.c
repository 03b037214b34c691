/* The trace of RFC 8448 section 3, a simple 1-RTT handshake, with its keys: the messages of its server, sealed here, meet a
 * client of ours that is made to have sent the trace's ClientHello. All secrets and the client's Finished come out as printed
 * there, and its ticket is taken. This test alone reaches into the handshake, for the client's hello and private key. */
#include "tls/wire.h"

static const char client_hello[] =
    "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7000006130113031302010000910000000b00"
    "09000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400230000003300260024001d002099381d"
    "e560e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c002b0003020304000d0020001e0403050306030203080408050806"
    "04010501060102010402050206020202002d00020101001c00024001";
static const char server_hello[] =
    "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024001d0020c9828876"
    "112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304";
static const char encrypted_extensions[] =
    "080000240022000a00140012001d00170018001901000101010201030104001c0002400100000000";
static const char certificate[] =
    "0b0001b9000001b50001b0308201ac30820115a003020102020102300d06092a864886f70d01010b0500300e310c300a0603550403130372"
    "7361301e170d3136303733303031323335395a170d3236303733303031323335395a300e310c300a0603550403130372736130819f300d06"
    "092a864886f70d010101050003818d0030818902818100b4bb498f8279303d980836399b36c6988c0c68de55e1bdb826d3901a2461eafd2d"
    "e49a91d015abbc9a95137ace6c1af19eaa6af98c7ced43120998e187a80ee0ccb0524b1b018c3e0b63264d449a6d38e22a5fda4308467480"
    "30530ef0461c8ca9d9efbfae8ea6d1d03e2bd193eff0ab9a8002c47428a6d35a8d88d79f7f1e3f0203010001a31a301830090603551d1304"
    "023000300b0603551d0f0404030205a0300d06092a864886f70d01010b05000381810085aad2a0e5b9276b908c65f73a7267170618a54c5f"
    "8a7b337d2df7a594365417f2eae8f8a58c8f8172f9319cf36b7fd6c55b80f21a03015156726096fd335e5e67f2dbf102702e608ccae6bec1"
    "fc63a42a99be5c3eb7107c3c54e9b9eb2bd5203b1c3b84e0a8b2f759409ba3eac9d91d402dcc0cc8f8961229ac9187b42b4de10000";
static const char certificate_verify[] =
    "0f000084080400805a747c5d88fa9bd2e55ab085a61015b7211f824cd484145ab3ff52f1fda8477b0b7abc90db78e2d33a5c141a078653fa"
    "6bef780c5ea248eeaaa785c4f394cab6d30bbe8d4859ee511f602957b15411ac027671459e46445c9ea58c181e818e95b8c3fb0bf3278409"
    "d3be152a3da5043e063dda65cdf5aea20d53dfacd42f74f3";
static const char server_finished[] =
    "140000209b9b141d906337fbd2cbdce71df4deda4ab42c309572cb7fffee5454b78f0718";
static const char client_finished[] =
    "14000020a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61";
static const char new_session_ticket[] =
    "040000c90000001efad6aac502000000b22c035d829359ee5ff7af4ec900000000262a6494dc486d2c8a34cb33fa90bf1b0070ad3c498883"
    "c9367c09a2be785abc55cd226097a3a982117283f82a03a143efd3ff5dd36d64e861be7fd61d2827db279cce145077d454a3664d4e6da4d2"
    "9ee03725a6a4dafcd0fc67d2aea70529513e3da2677fa5906c5b3f7d8f92f228bda40dda721470f9fbf297b5aea617646fac5c03272e9707"
    "27c621a79141ef5f7de6505e5bfbc388e93343694093934ae4d3570008002a000400000400";
static const char private_key[] = "49af42ba7f7994852d713ef2784bcbcaa7911de26adc5642cb634540e7ea5005";
static const struct { const char *label, *secret; } secrets[] = {
    {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"},
    {"SERVER_HANDSHAKE_TRAFFIC_SECRET", "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"},
    {"CLIENT_TRAFFIC_SECRET_0", "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"},
    {"SERVER_TRAFFIC_SECRET_0", "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"},
    {"EXPORTER_SECRET", "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50"}};

static size_t bytes(const char *hex, uint8_t *out)
{
    return kit_unhex(hex, out, 1024);
}

/* The trace's certificate has a key of 1024 bits, which no settings take: the client is told that it has been through that. */
static psocket_tls *settings(void)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_version = 0x0304;
    kit_ca(&s, "ca.pem");
    s.opt.suites = "TLS_AES_128_GCM_SHA256";
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

TEST(the_simple_handshake)
{
    static const char *const flight[] = {encrypted_extensions, certificate, certificate_verify, server_finished};
    static kit_bytes b;
    static uint8_t p[1024], plain[1024], want[1024];
    psocket_tls *tls = settings();
    kit_end *c = NULL;
    kit_key key;
    psi_hs *h;
    psocket_error e = {0};
    size_t n, i;
    ptrdiff_t have;
    int type;
    const void *data;
    REQUIRE(tls && !kit_new(&c, tls, PSOCKET_CLIENT, "server", &e));
    h = c->s->hs;
    n = bytes(client_hello, p);
    c->out.n = 0;
    memcpy(h->randoms, p + 6, 32);
    h->id_len = 0;
    h->offered = 0xFFFFFFFFu;
    h->ccs_sent = 1; /* the trace is without middlebox compatibility */
    psi_write_free(&h->transcript.bytes);
    psi_transcript_add(&h->transcript, p, n);
    bytes(private_key, h->kex.scalar);

    n = bytes(server_hello, p);
    kit_record(&b, 22, p, n);
    kit_feed(c, b.p, b.n);
    CHECK_INT(kit_status(c, &e), PSOCKET_WANT_READ);
    bytes(secrets[1].secret, p);
    kit_key_13(&key, 0x1301, p);
    for (i = 0; i < 4; i++) {
        n = bytes(flight[i], p);
        if (i == 1 || i == 2) { /* Certificate and CertificateVerify */
            psi_transcript_add(&h->transcript, p, n);
            h->proved = 1;
            while (h->next->message != PSI_MSG_FINISHED) h->next++;
            continue;
        }
        b.n = 0;
        kit_seal(&key, &b, 22, p, n, 0);
        kit_feed(c, b.p, b.n);
    }
    if (kit_status(c, &e)) check_fail(__FILE__, __LINE__, "%d %s", c->status, e.text);
    bytes(client_hello, p);
    for (i = 0; i < 5; i++) {
        const kit_secret *s = kit_find_secret(secrets[i].label, p + 6);
        bytes(secrets[i].secret, want);
        REQUIRE(s != NULL);
        CHECK_INT(s->len, 32);
        CHECK_MEM(s->secret, want, 32);
    }
    bytes(secrets[0].secret, p);
    kit_key_13(&key, 0x1301, p);
    have = kit_open(&key, c->out.p, plain, &type);
    n = bytes(client_finished, want);
    CHECK_INT(have, n);
    CHECK_MEM(plain, want, n);
    CHECK_INT(c->out.n, 5 + n + 1 + 16);

    n = bytes(new_session_ticket, p);
    bytes(secrets[3].secret, want);
    kit_key_13(&key, 0x1301, want);
    b.n = 0;
    kit_seal(&key, &b, 22, p, n, 0);
    kit_feed(c, b.p, b.n);
    CHECK_INT(psocket_recv(c->s, &data), PSOCKET_WANT_READ);
    kit_free(c);
    psocket_tls_free(tls);
}
