/* What Rust sees of DPDK.
 *
 * DPDK's structs change their field names and layout between releases, and its fast functions are
 * inline. This header is the fence: Rust gets plain structs of our own, offsets that the C compiler
 * computed, and functions that do their work once per burst. Nothing here is called per packet
 * except on error paths.
 */
#ifndef RVS_SHIM_H
#define RVS_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/* Where the fields of struct rte_mbuf are in this release. */
enum rvs_mbuf_offset {
	RVS_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	RVS_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	RVS_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	RVS_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	RVS_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	RVS_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	RVS_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	RVS_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	RVS_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	RVS_MBUF_TX_LENGTHS = offsetof(struct rte_mbuf, tx_offload),
	RVS_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	/* Of the application between receiving and sending. */
	RVS_MBUF_MARK = offsetof(struct rte_mbuf, hash.usr),
};

/* Limits and defaults. */
enum rvs_limit {
	RVS_PORT_NAME = RTE_ETH_NAME_MAX_LEN,
	RVS_HEADROOM = RTE_PKTMBUF_HEADROOM,
	RVS_DEFAULT_DATA_ROOM = RTE_MBUF_DEFAULT_BUF_SIZE,
	RVS_MAX_PORTS = RTE_MAX_ETHPORTS,
	RVS_MAX_LCORES = RTE_MAX_LCORE,
	RVS_MAX_POOL_CACHE = RTE_MEMPOOL_CACHE_MAX_SIZE,
	RVS_VERSION = RTE_VERSION,
};

static const uint64_t RVS_F_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t RVS_F_RX_IPV4_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t RVS_F_RX_IPV4_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t RVS_F_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t RVS_F_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
/* The sum in the packet is not right, and need not be: it was left to the hardware. */
static const uint64_t RVS_F_RX_L4_PARTIAL = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t RVS_F_TX_VLAN = RTE_MBUF_F_TX_VLAN;
static const uint64_t RVS_F_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t RVS_F_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t RVS_F_TX_UDP_SUM = RTE_MBUF_F_TX_UDP_CKSUM;
/* The data room belongs to another mbuf or to the application. */
static const uint64_t RVS_F_ATTACHED = RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;

/* Thread-local variables of librte_eal. */
int rvs_errno(void);
unsigned int rvs_lcore_id(void);

/* "DPDK 22.11.11", a constant string. */
const char *rvs_version(void);

/* Log to stderr only; EAL's own default also writes to syslog. */
void rvs_log_to_stderr(void);

/* Packets. */
uint16_t rvs_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t rvs_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
int rvs_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void rvs_mbuf_free(struct rte_mbuf *mbuf);
/* Frees all segments but the first; lengths are the caller's to set. */
void rvs_mbuf_cut_tail(struct rte_mbuf *mbuf);
/* Appends the segments of `tail`, which belong to `head` then. 0, or -EOVERFLOW and no change. */
int rvs_mbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail);
unsigned int rvs_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count);
unsigned int rvs_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count);
unsigned int rvs_ring_count(const struct rte_ring *ring);
/* A ring of exactly `capacity` slots. */
struct rte_ring *rvs_ring_create(const char *name, unsigned int capacity, int socket,
				 bool single_producer, bool single_consumer);

/* What a port may do with the contents of frames. */
enum rvs_offload {
	RVS_RX_IPV4_SUM = 1 << 0,
	RVS_RX_UDP_SUM = 1 << 1,
	RVS_RX_TCP_SUM = 1 << 2,
	RVS_VLAN_STRIP = 1 << 3,
	RVS_TX_IPV4_SUM = 1 << 4,
	RVS_TX_UDP_SUM = 1 << 5,
	RVS_TX_TCP_SUM = 1 << 6,
	RVS_VLAN_INSERT = 1 << 7,
};

/* What a port can do and is. */
struct rvs_port_info {
	char driver[64];
	uint8_t mac[6];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t mtu;
	uint16_t min_mtu;
	uint16_t max_mtu;
	uint32_t max_mac_addresses;
	int32_t socket;
	uint8_t rss_key_size;
	bool has_rss;
	bool takes_rss_key; /* spreads TCP and UDP over IPv4 by a key and a table of our choice */
	bool has_scatter;
	bool has_multi_segments;
	uint32_t offers; /* of enum rvs_offload */
	bool has_link_interrupt;
	bool has_removal_interrupt;
};
int rvs_port_info(uint16_t port, struct rvs_port_info *out);

/* How a port is to be set up; descriptor counts are adjusted to what the driver accepts. */
struct rvs_port_conf {
	struct rte_mempool *pool;
	uint16_t rx_queues;
	uint16_t tx_queues;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint16_t mtu; /* 0: the driver's default */
	bool scatter; /* frames may take several buffers, in and out */
	uint32_t offloads; /* of enum rvs_offload, all of which it offers */
	const uint8_t *rss_key; /* RVS_RSS_KEY bytes; NULL: one that is the same for both directions */
	bool urgent_queue; /* one RX queue more, that flows are not spread over */
};
#define RVS_RSS_KEY 40
/* Entries of the redirection table, or after how many it repeats itself. */
#define RVS_RSS_BUCKETS 128
/* The step of rvs_port_configure that failed. */
enum rvs_port_step {
	RVS_STEP_INFO,
	RVS_STEP_CONFIGURE,
	RVS_STEP_DESCRIPTORS,
	RVS_STEP_RX_QUEUE,
	RVS_STEP_TX_QUEUE,
};
/* 0 or a negative errno with *step set. *rss tells whether flows are spread over the queues. */
int rvs_port_configure(uint16_t port, struct rvs_port_conf *conf, enum rvs_port_step *step,
		       bool *rss);

/* Tells a running port which queue each bucket goes to, and reads key, table and kinds of packets
 * back. -EPROTO: it has something else than it was told. */
int rvs_port_steer(uint16_t port, const uint8_t *key, const uint16_t *queues);

/* Spreads flows over the first `queues` RX queues of a running port only. */
int rvs_port_spread(uint16_t port, uint16_t queues);

/* Kinds of frames that must not wait behind others. */
enum rvs_urgent {
	RVS_URGENT_ARP = 1 << 0,
	RVS_URGENT_VRRP4 = 1 << 1, /* IPv4 protocol 112 */
	RVS_URGENT_VRRP6 = 1 << 2, /* IPv6 next header 112 */
	RVS_URGENT_ND = 1 << 3, /* neighbour solicitations and advertisements */
};
/* Kinds that the driver says it can take to an RX queue of a running port. */
uint32_t rvs_urgent_offered(uint16_t port, uint16_t queue);
/* Takes them there; returns those for which that worked. */
uint32_t rvs_urgent_set(uint16_t port, uint16_t queue);
/* Ends all such rules. */
void rvs_urgent_clear(uint16_t port);

struct rvs_port_stats {
	uint64_t rx_packets;
	uint64_t rx_bytes;
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t rx_no_mbuf;
	uint64_t tx_packets;
	uint64_t tx_bytes;
	uint64_t tx_errors;
};
int rvs_port_stats(uint16_t port, struct rvs_port_stats *out);

/* Fills up to `capacity` names (64 bytes each) and values; returns how many there are, or a
 * negative errno. */
int rvs_port_xstats(uint16_t port, char (*names)[64], uint64_t *values, unsigned int capacity);

struct rvs_link {
	bool up;
	bool full_duplex;
	uint32_t mbps; /* UINT32_MAX: unknown */
};
int rvs_port_link(uint16_t port, struct rvs_link *out);

/* Of a bond: the DPDK number of the member that sends in active-backup mode, or a negative errno
 * (-ENOTSUP: no bonding driver is loaded). */
int rvs_bond_active(uint16_t bond);
/* Makes a member the one that sends. */
int rvs_bond_prefer(uint16_t bond, uint16_t member);

int rvs_port_mac_add(uint16_t port, const uint8_t mac[6]);
int rvs_port_mac_remove(uint16_t port, const uint8_t mac[6]);
int rvs_port_mac_set(uint16_t port, const uint8_t mac[6]);
/* `macs` holds count * 6 bytes. */
int rvs_port_multicast_set(uint16_t port, const uint8_t *macs, uint32_t count);

/* Calls on EAL's interrupt thread; never both at once for one port. */
enum rvs_port_event {
	RVS_EVENT_LINK = 1,
	RVS_EVENT_REMOVED = 2,
};
typedef void (*rvs_port_event_fn)(enum rvs_port_event event, void *context);
struct rvs_port_watch;
/* NULL when memory is short or the driver offers no callbacks. */
struct rvs_port_watch *rvs_port_watch(uint16_t port, rvs_port_event_fn call, void *context);
/* On return no call is running and none will follow. */
void rvs_port_unwatch(struct rvs_port_watch *watch);

#endif
