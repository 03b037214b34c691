/* board.c - QEMU's mps2-an385: vectors, UART0, a timer, the LAN9118 Ethernet chip. Random numbers, the date and the end come
 * from the host through semihosting; a real board has a generator and a clock of its own. */
#include "FreeRTOS.h"
#include "task.h"

#include "board.h"
#include "lwip/etharp.h"
#include "lwip/tcpip.h"
#include "netif/ethernet.h"

#include <string.h>
#include <sys/stat.h>

#define REG(address) (*(volatile uint32_t *)(address))
#define UART0 0x40004000u
#define TIMER0 0x40000000u
#define LAN 0x40200000u

/*--- semihosting: calls to the host */

static int host_call(int number, const void *arguments)
{
    register int r0 __asm__("r0") = number;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

int board_random(void *p, size_t n)
{
    static const char name[] = "/dev/urandom";
    static int file = -1;
    uint32_t opening[3], reading[3];
    opening[0] = (uint32_t)(uintptr_t)name;
    opening[1] = 1; /* "rb" */
    opening[2] = sizeof name - 1;
    if (file < 0) file = host_call(0x01, opening);
    reading[0] = (uint32_t)file;
    reading[1] = (uint32_t)(uintptr_t)p;
    reading[2] = n;
    return file >= 0 && host_call(0x06, reading) == 0 ? 0 : -1;
}

int64_t board_time(void)
{
    return (uint32_t)host_call(0x11, NULL);
}

void board_exit(int status)
{
    uint32_t block[2] = {0x20026, 0}; /* ADP_Stopped_ApplicationExit */
    block[1] = (uint32_t)status;
    for (;;) host_call(0x20, block);
}

/*--- newlib's and FreeRTOS's needs */

int _write(int file, const char *p, int n);
int _write(int file, const char *p, int n)
{
    int i;
    (void)file;
    for (i = 0; i < n; i++) {
        while (REG(UART0 + 4) & 1) continue; /* the transmitter is full */
        REG(UART0) = (uint32_t)(unsigned char)p[i];
    }
    return n;
}

uint32_t board_timer(void)
{
    return 0xffffffffu - REG(TIMER0 + 4);
}

void board_start(void)
{
    REG(UART0 + 16) = 16;
    REG(UART0 + 8) = 1; /* transmit */
    REG(TIMER0 + 8) = 0xffffffffu;
    REG(TIMER0 + 4) = 0xffffffffu;
    REG(TIMER0) = 1;
}

void vApplicationStackOverflowHook(TaskHandle_t task, char *name);
void vApplicationStackOverflowHook(TaskHandle_t task, char *name)
{
    (void)task;
    (void)name;
    board_exit(2);
}

/*--- the Ethernet chip */

enum { RX_DATA = 0x00, TX_DATA = 0x20, RX_STATUS = 0x40, RX_CFG = 0x6c, TX_CFG = 0x70, HW_CFG = 0x74, RX_FIFO_INF = 0x7c, TX_FIFO_INF = 0x80,
       MAC_CMD = 0xa4, MAC_DATA = 0xa8 };

static struct netif lan;

static void mac_write(uint32_t reg, uint32_t value)
{
    REG(LAN + MAC_DATA) = value;
    REG(LAN + MAC_CMD) = 0x80000000u | reg;
    while (REG(LAN + MAC_CMD) & 0x80000000u) continue;
}

static err_t lan_output(struct netif *netif, struct pbuf *p)
{
    static uint32_t frame[384];
    uint32_t i, n = p->tot_len;
    (void)netif;
    if (n > sizeof frame || (REG(LAN + TX_FIFO_INF) & 0xffff) < n + 16) return ERR_MEM;
    pbuf_copy_partial(p, frame, (u16_t)n, 0);
    REG(LAN + TX_DATA) = 0x3000 | n; /* the first and the last piece of a packet */
    REG(LAN + TX_DATA) = n;
    for (i = 0; i < (n + 3) / 4; i++) REG(LAN + TX_DATA) = frame[i];
    return ERR_OK;
}

/* Looks for packets every tick; an interrupt would do better. */
static void lan_task(void *unused)
{
    static uint32_t frame[384];
    (void)unused;
    for (;;) {
        while ((REG(LAN + RX_FIFO_INF) >> 16) & 0xff) {
            uint32_t status = REG(LAN + RX_STATUS), n = (status >> 16) & 0x3fff, i;
            struct pbuf *p;
            for (i = 0; i < (n + 3) / 4; i++) frame[i < 384 ? i : 383] = REG(LAN + RX_DATA);
            if ((status & 0x8000) || n < 4 || n > sizeof frame) continue;
            n -= 4; /* the checksum */
            p = pbuf_alloc(PBUF_RAW, (u16_t)n, PBUF_POOL);
            if (!p) continue;
            pbuf_take(p, frame, (u16_t)n);
            if (lan.input(p, &lan) != ERR_OK) pbuf_free(p);
        }
        vTaskDelay(1);
    }
}

static err_t lan_init(struct netif *netif)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    netif->name[0] = 'e';
    netif->name[1] = 'n';
    netif->output = etharp_output;
    netif->linkoutput = lan_output;
    netif->mtu = 1500;
    netif->hwaddr_len = 6;
    memcpy(netif->hwaddr, mac, 6);
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_LINK_UP;
    REG(LAN + HW_CFG) = 5u << 16;
    REG(LAN + RX_CFG) = 0;
    mac_write(2, mac[4] | (uint32_t)mac[5] << 8);
    mac_write(3, mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24);
    REG(LAN + TX_CFG) = 2;
    mac_write(1, 0x0c); /* transmit and receive */
    return ERR_OK;
}

static void network_up(void *done)
{
    ip4_addr_t ip, mask, gateway;
    IP4_ADDR(&ip, 10, 0, 2, 15);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    IP4_ADDR(&gateway, 10, 0, 2, 2);
    netif_add(&lan, &ip, &mask, &gateway, NULL, lan_init, tcpip_input);
    netif_set_default(&lan);
    netif_set_up(&lan);
    *(volatile int *)done = 1;
}

void board_network(void)
{
    volatile int done = 0;
    tcpip_init(network_up, (void *)&done);
    while (!done) vTaskDelay(1);
    xTaskCreate(lan_task, "lan", 512, NULL, 3, NULL);
}

/*--- start: the vectors that FreeRTOS needs; sections as board.ld lays them out */

extern uint32_t board_data_from[], board_data[], board_data_end[], board_bss[], board_bss_end[], board_stack[];
void vPortSVCHandler(void);
void xPortPendSVHandler(void);
void xPortSysTickHandler(void);
int main(void);

void board_reset(void);
void board_reset(void)
{
    uint32_t *to = board_data, *from = board_data_from;
    while (to < board_data_end) *to++ = *from++;
    for (to = board_bss; to < board_bss_end;) *to++ = 0;
    main();
}

static void fault(void)
{
    board_exit(3);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))board_stack, board_reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, vPortSVCHandler, fault, 0,
    xPortPendSVHandler, xPortSysTickHandler,
};

/* newlib asks for these; nothing here opens files or grows a heap. */
int _close(int file);
int _fstat(int file, struct stat *st);
int _isatty(int file);
int _lseek(int file, int offset, int whence);
int _read(int file, char *p, int n);
void *_sbrk(ptrdiff_t n);
int _kill(int pid, int signal_number);
int _getpid(void);
void _exit(int status);
int _close(int file) { return file ? -1 : 0; }
int _fstat(int file, struct stat *st) { (void)file; st->st_mode = S_IFCHR; return 0; }
int _isatty(int file) { return file >= 0; }
int _lseek(int file, int offset, int whence) { (void)file; (void)offset; (void)whence; return 0; }
int _read(int file, char *p, int n) { (void)file; (void)p; (void)n; return 0; }
int _kill(int pid, int signal_number) { (void)pid; (void)signal_number; return -1; }
int _getpid(void) { return 1; }
void _exit(int status) { board_exit(status); for (;;) continue; }
void *_sbrk(ptrdiff_t n)
{
    static char heap[8192]; /* for printf's buffers */
    static ptrdiff_t used;
    if (used + n > (ptrdiff_t)sizeof heap) return (void *)-1;
    used += n;
    return heap + used - n;
}
