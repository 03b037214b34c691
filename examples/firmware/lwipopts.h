/* lwIP as psocket needs it: its socket API, with a kernel below. What each of these means is in lwIP's opt.h. */
#ifndef LWIPOPTS_H
#define LWIPOPTS_H

#define NO_SYS 0
#define LWIP_SOCKET 1           /* psocket uses lwIP's sockets ... */
#define LWIP_SOCKET_POLL 1      /* ... and poll */
#define LWIP_COMPAT_SOCKETS 0   /* by their lwip_ names */
#define SO_REUSE 1              /* listen sets SO_REUSEADDR */
#define LWIP_SO_RCVBUF 1
#define LWIP_NETIF_LOOPBACK 0   /* 1 if the device talks to itself: psocket_pair and psocket_poller_wake do */
#define LWIP_TCPIP_CORE_LOCKING 1
#define LWIP_IPV6 0
#define LWIP_DNS 0

#define MEM_ALIGNMENT 8
#define MEM_SIZE (48 * 1024)    /* more than TCP_SND_BUF of every connection that sends at once */
#define MEMP_NUM_NETCONN 8      /* sockets, listeners and UDP endpoints together, plus one for each poller */
#define MEMP_NUM_TCP_PCB 8
#define MEMP_NUM_TCP_SEG 64
#define PBUF_POOL_SIZE 24
#define TCP_MSS 1460
#define TCP_WND (8 * TCP_MSS)
#define TCP_SND_BUF (4 * TCP_MSS)
#define TCP_SND_QUEUELEN 32

#define TCPIP_THREAD_STACKSIZE 1024
#define TCPIP_THREAD_PRIO 4
#define TCPIP_MBOX_SIZE 32
#define DEFAULT_TCP_RECVMBOX_SIZE 32
#define DEFAULT_UDP_RECVMBOX_SIZE 8
#define DEFAULT_ACCEPTMBOX_SIZE 8
#define LWIP_STATS 0

#endif
