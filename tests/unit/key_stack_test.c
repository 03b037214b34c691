/* No round key of AES is left on the stack when a record has been sealed or opened. Measured on a painted stack, in the optimised
   build: a sanitizer keeps frames elsewhere. */
#define PSOCKET_IMPLEMENTATION
#include "../check.h"
#include "../../psocket.h"

#include <pthread.h>

enum { STACK = 1 << 18, PAINT = 0xA7 };

static psi_key key;
static uint8_t record[5000];
static int encrypt;

static void *run(void *arg)
{
    uint8_t tag[PSI_REC_TAG];
    psi_key_run(&key, record, *(size_t *)arg, encrypt, tag);
    return NULL;
}

/* How often 16 bytes of the round keys stand on the stack that this took. */
static int left_behind(size_t n)
{
    const uint8_t *keys;
    unsigned char *stack = NULL;
    pthread_attr_t a;
    pthread_t t;
    size_t i, r;
    int found = 0;
    if (posix_memalign((void **)&stack, 4096, STACK)) return -1;
    memset(stack, PAINT, STACK);
    pthread_attr_init(&a);
    pthread_attr_setstack(&a, stack, STACK);
    if (pthread_create(&t, &a, run, &n) == 0) pthread_join(t, NULL);
    pthread_attr_destroy(&a);
    keys = (const uint8_t *)&key.gcm->aes + sizeof(void *);
    for (r = 0; r < 160; r += 16)
        for (i = 0; i + 16 <= STACK; i++) found += stack[i] == keys[r] && !memcmp(stack + i, keys + r, 16);
    free(stack);
    return found;
}

TEST(round_keys)
{
    const br_block_ctr_class *classes[] = {NULL, &br_aes_ct64_ctr_vtable, &br_aes_ct_ctr_vtable};
    static const unsigned suites[] = {0x1301, 0x1302, 0xC02F};
    size_t c, s, i, n;
#if defined(__SANITIZE_ADDRESS__)
    SKIP("a sanitizer's frames are elsewhere");
#endif
    psi_rec_prepare();
    classes[0] = psi_prim.aes;
    for (c = 0; c < 3; c++) {
        psi_prim.aes = classes[c];
        for (s = 0; s < 3; s++) {
            memset(&key, 0, sizeof key);
            key.suite = psi_named_of(PSI_SUITE, suites[s]);
            for (i = 0; i < sizeof key.key; i++) key.key[i] = (uint8_t)(17 * i + 31 * s + 97 * c + 5);
            for (n = 4; n < 4500; n *= 8) {
                for (encrypt = 0; encrypt < 2; encrypt++)
                    if (c || s || n > 4) CHECK_INT(left_behind(n), 0);
                    else left_behind(n); /* the linker binds on the caller's stack what is called for the first time */
                psi_key_relax(&key);
            }
            psi_key_clear(&key);
        }
    }
}

