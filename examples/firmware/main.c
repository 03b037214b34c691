/* main.c - firmware that fetches a page over TLS: FreeRTOS, lwIP and psocket on an Arm Cortex-M3 (QEMU's mps2-an385).
 *
 * The board asks the host's server at HOST_IP (QEMU's gateway) port HOST_PORT for /, as HOST_NAME, and trusts the
 * certificate in trust.h, nothing else. It prints what it got, then what each step took of the processor, and the most
 * that psocket took of heap and stack. See Makefile for how it is built and run.
 */
#include "FreeRTOS.h"
#include "task.h"

#include "board.h"
#include "trust.h" /* static const char trust[]: PEM; written by the Makefile */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* psocket's memory, counted: the size stands in front of each block. */
static size_t heap_now, heap_peak;

static void *counted_malloc(size_t n)
{
    size_t *p = (size_t *)pvPortMalloc(n + 8);
    if (!p) return NULL;
    *p = n;
    heap_now += n;
    if (heap_now > heap_peak) heap_peak = heap_now;
    return p + 2;
}

static void counted_free(void *p)
{
    if (!p) return;
    heap_now -= ((size_t *)p)[-2];
    vPortFree((size_t *)p - 2);
}

static void *counted_realloc(void *p, size_t n)
{
    size_t old = p ? ((size_t *)p)[-2] : 0;
    void *q = counted_malloc(n);
    if (q && p) memcpy(q, p, old < n ? old : n);
    if (q) counted_free(p);
    return q;
}

#define PSOCKET_MALLOC(n) counted_malloc(n)
#define PSOCKET_REALLOC(p, n) counted_realloc(p, n)
#define PSOCKET_FREE(p) counted_free(p)
#define PSOCKET_ENTROPY(p, n) board_random(p, n) /* lwIP and newlib know neither randomness */
#define PSOCKET_WALLCLOCK() board_time()         /* nor the date, without which no certificate can be checked */
#define PSOCKET_LWIP
#define PSOCKET_NO_THREADS
#define PSOCKET_NO_DNS /* HOST_IP is an address */
#define PSOCKET_NO_FILES
#define PSOCKET_READ_SIZE 2048
#define PSOCKET_RECV_LIMIT 17000 /* one TLS record of the largest size */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

/* Instructions that the calling task has run: 1 GHz in QEMU's count, 25 MHz in the board's timer. */
static void step_done(const char *what)
{
    static configRUN_TIME_COUNTER_TYPE before;
    configRUN_TIME_COUNTER_TYPE now = ulTaskGetRunTimeCounter(NULL);
    printf("%-10s %9lu instructions, heap %5lu bytes now, %5lu at most\n", what, (unsigned long)(now - before) * 40ul,
           (unsigned long)heap_now, (unsigned long)heap_peak);
    before = ulTaskGetRunTimeCounter(NULL);
}

static int fetch(void)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: " HOST_NAME "\r\nConnection: close\r\n\r\n";
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    psocket_tls *tls = NULL;
    psocket *s = NULL;
    psocket_tlsinfo info;
    const void *data;
    ptrdiff_t n;
    size_t got = 0;
    step_done("start");
    topt.ca = trust;
    opt.timeout_ms = 60000;
    opt.error = topt.error = &err;
    if (psocket_tls_new(&tls, &topt)) goto failed;
    step_done("settings");
    if (psocket_connect(&s, HOST_IP, HOST_PORT, &opt)) goto failed;
    step_done("connect");
    if (psocket_starttls(s, tls, HOST_NAME)) goto failed;
    step_done("handshake");
    psocket_gettlsinfo(s, &info);
    printf("%s %s\n", info.version_name, info.suite_name);
    n = psocket_send(s, request, sizeof request - 1);
    while (n >= 0 && (n = psocket_recv(s, &data)) >= 0) {
        if (got == 0) printf("%.15s\n", (const char *)data);
        got += (size_t)n;
    }
    if (n != PSOCKET_CLOSED) goto failed;
    step_done("page");
    printf("%lu bytes\n", (unsigned long)got);
    psocket_free(s);
    psocket_tls_free(tls);
    step_done("end");
    return 0;
failed:
    if (s) psocket_geterror(s, &err);
    printf("failed: %s\n", err.text);
    psocket_free(s);
    psocket_tls_free(tls);
    return 1;
}

static void app(void *unused)
{
    int failed;
    (void)unused;
    board_network();
    failed = fetch();
    printf("stack: %lu of %lu bytes used\n", (unsigned long)(APP_STACK_WORDS - uxTaskGetStackHighWaterMark(NULL)) * sizeof(StackType_t),
           (unsigned long)APP_STACK_WORDS * sizeof(StackType_t));
    board_exit(failed);
}

int main(void)
{
    board_start();
    if (xTaskCreate(app, "app", APP_STACK_WORDS, NULL, 2, NULL) != pdPASS) board_exit(1);
    vTaskStartScheduler();
    board_exit(1);
    return 1;
}
