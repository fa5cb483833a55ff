/* Plain functions around DPDK's inline ones, and around structs that differ between releases. */

#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int rvs_errno(void)
{
	return rte_errno;
}

const char *rvs_version(void)
{
	return rte_version();
}

unsigned int rvs_lcore_id(void)
{
	return rte_lcore_id();
}

void rvs_log_to_stderr(void)
{
	rte_openlog_stream(stderr);
}

uint16_t rvs_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t rvs_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

int rvs_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void rvs_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void rvs_mbuf_cut_tail(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf->next);
	mbuf->next = NULL;
	mbuf->nb_segs = 1;
}

int rvs_mbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail)
{
	return rte_pktmbuf_chain(head, tail);
}

unsigned int rvs_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_ring_enqueue_burst(ring, (void **)mbufs, count, NULL);
}

unsigned int rvs_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_ring_dequeue_burst(ring, (void **)mbufs, count, NULL);
}

unsigned int rvs_ring_count(const struct rte_ring *ring)
{
	return rte_ring_count(ring);
}

struct rte_ring *rvs_ring_create(const char *name, unsigned int capacity, int socket,
				 bool single_producer, bool single_consumer)
{
	unsigned int flags = RING_F_EXACT_SZ;

	if (single_producer)
		flags |= RING_F_SP_ENQ;
	if (single_consumer)
		flags |= RING_F_SC_DEQ;
	return rte_ring_create(name, capacity, socket, flags);
}

static const struct {
	uint32_t ours;
	uint64_t rx, tx;
} offloads[] = {
	{ RVS_RX_IPV4_SUM, RTE_ETH_RX_OFFLOAD_IPV4_CKSUM, 0 },
	{ RVS_RX_UDP_SUM, RTE_ETH_RX_OFFLOAD_UDP_CKSUM, 0 },
	{ RVS_RX_TCP_SUM, RTE_ETH_RX_OFFLOAD_TCP_CKSUM, 0 },
	{ RVS_VLAN_STRIP, RTE_ETH_RX_OFFLOAD_VLAN_STRIP, 0 },
	{ RVS_TX_IPV4_SUM, 0, RTE_ETH_TX_OFFLOAD_IPV4_CKSUM },
	{ RVS_TX_UDP_SUM, 0, RTE_ETH_TX_OFFLOAD_UDP_CKSUM },
	{ RVS_TX_TCP_SUM, 0, RTE_ETH_TX_OFFLOAD_TCP_CKSUM },
	{ RVS_VLAN_INSERT, 0, RTE_ETH_TX_OFFLOAD_VLAN_INSERT },
};

/* Packets whose ports RSS has to count. */
#define STEERED_KINDS (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP)

int rvs_port_info(uint16_t port, struct rvs_port_info *out)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	size_t i;
	int rc;

	memset(out, 0, sizeof(*out));
	memset(&info, 0, sizeof(info));
	rc = rte_eth_dev_info_get(port, &info);
	if (rc != 0)
		return rc;
	snprintf(out->driver, sizeof(out->driver), "%s",
		 info.driver_name != NULL ? info.driver_name : "unknown");
	rc = rte_eth_macaddr_get(port, &mac);
	if (rc != 0)
		return rc;
	memcpy(out->mac, &mac, sizeof(out->mac));
	rc = rte_eth_dev_get_mtu(port, &out->mtu);
	if (rc != 0)
		return rc;
	out->max_rx_queues = info.max_rx_queues;
	out->max_tx_queues = info.max_tx_queues;
	out->min_mtu = info.min_mtu;
	out->max_mtu = info.max_mtu;
	/* Drivers that name no largest MTU are held to their longest frame. */
	if (info.max_mtu == UINT16_MAX && info.max_rx_pktlen < UINT16_MAX)
		out->max_mtu = info.max_rx_pktlen - RTE_ETHER_HDR_LEN - RTE_ETHER_CRC_LEN;
	out->max_mac_addresses = info.max_mac_addrs;
	out->socket = rte_eth_dev_socket_id(port);
	out->rss_key_size = info.hash_key_size;
	out->has_rss = info.flow_type_rss_offloads != 0;
	out->takes_rss_key = info.hash_key_size >= RVS_RSS_KEY && info.reta_size != 0 &&
			     info.reta_size <= RTE_ETH_RSS_RETA_SIZE_512 &&
			     info.reta_size % RVS_RSS_BUCKETS == 0 &&
			     (info.flow_type_rss_offloads & STEERED_KINDS) == STEERED_KINDS;
	out->has_scatter = (info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER) != 0;
	out->has_multi_segments = (info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0;
	for (i = 0; i < RTE_DIM(offloads); i++)
		if ((info.rx_offload_capa & offloads[i].rx) == offloads[i].rx &&
		    (info.tx_offload_capa & offloads[i].tx) == offloads[i].tx)
			out->offers |= offloads[i].ours;
	out->has_link_interrupt = (*info.dev_flags & RTE_ETH_DEV_INTR_LSC) != 0;
	out->has_removal_interrupt = (*info.dev_flags & RTE_ETH_DEV_INTR_RMV) != 0;
	return 0;
}

int rvs_port_configure(uint16_t port, struct rvs_port_conf *conf, enum rvs_port_step *step,
		       bool *rss)
{
	/* Repeating 6d5a makes the Toeplitz hash equal for both directions of a flow. */
	uint8_t key[256];
	struct rte_eth_dev_info info;
	struct rte_eth_conf eth;
	unsigned int socket = (unsigned int)rte_eth_dev_socket_id(port);
	uint64_t spread;
	uint16_t queue, rx_queues = conf->rx_queues + (conf->urgent_queue ? 1 : 0);
	uint16_t tx_queues = conf->tx_queues;
	size_t i;
	int rc;

	*rss = false;
	*step = RVS_STEP_INFO;
	memset(&info, 0, sizeof(info));
	rc = rte_eth_dev_info_get(port, &info);
	if (rc != 0)
		return rc;
	/* Some drivers have queues in pairs only. */
	if (conf->urgent_queue && conf->tx_queues < info.max_tx_queues)
		tx_queues++;

	*step = RVS_STEP_CONFIGURE;
	memset(&eth, 0, sizeof(eth));
	eth.rxmode.mtu = conf->mtu;
	if (conf->scatter) {
		/* Some drivers take several buffers without being asked. */
		eth.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
		eth.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	}
	for (i = 0; i < RTE_DIM(offloads); i++)
		if ((conf->offloads & offloads[i].ours) != 0) {
			eth.rxmode.offloads |= offloads[i].rx;
			eth.txmode.offloads |= offloads[i].tx;
		}
	/* The link is polled: with interrupts on, a driver whose interrupt cannot be had
	 * (82540EM on vfio) reports the state it had at start for ever. */
	eth.intr_conf.lsc = 0;
	eth.intr_conf.rmv = (*info.dev_flags & RTE_ETH_DEV_INTR_RMV) != 0;
	spread = (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP) &
		 info.flow_type_rss_offloads;
	if (conf->rx_queues > 1 && spread != 0) {
		for (i = 0; i < sizeof(key); i += 2) {
			key[i] = 0x6d;
			key[i + 1] = 0x5a;
		}
		if (conf->rss_key != NULL) {
			memset(key, 0, sizeof(key));
			memcpy(key, conf->rss_key, RVS_RSS_KEY);
		}
		eth.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		eth.rx_adv_conf.rss_conf.rss_hf = spread;
		if (info.hash_key_size != 0) {
			eth.rx_adv_conf.rss_conf.rss_key = key;
			eth.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
		}
		*rss = true;
	}
	rc = rte_eth_dev_configure(port, rx_queues, tx_queues, &eth);
	if (rc != 0)
		return rc;

	*step = RVS_STEP_DESCRIPTORS;
	rc = rte_eth_dev_adjust_nb_rx_tx_desc(port, &conf->rx_descriptors, &conf->tx_descriptors);
	if (rc != 0)
		return rc;

	*step = RVS_STEP_RX_QUEUE;
	for (queue = 0; queue < rx_queues; queue++) {
		struct rte_eth_rxconf rx = info.default_rxconf;

		rx.offloads = eth.rxmode.offloads;
		rc = rte_eth_rx_queue_setup(port, queue, conf->rx_descriptors, socket, &rx,
					    conf->pool);
		if (rc != 0)
			return rc;
	}

	*step = RVS_STEP_TX_QUEUE;
	for (queue = 0; queue < tx_queues; queue++) {
		struct rte_eth_txconf tx = info.default_txconf;

		tx.offloads = eth.txmode.offloads;
		rc = rte_eth_tx_queue_setup(port, queue, conf->tx_descriptors, socket, &tx);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* The size of a port's table of RSS queues, which then fits into a table of ours. */
static int reta_info(uint16_t port, struct rte_eth_dev_info *info)
{
	int rc;

	memset(info, 0, sizeof(*info));
	rc = rte_eth_dev_info_get(port, info);
	if (rc != 0)
		return rc;
	if (info->reta_size == 0 || info->reta_size > RTE_ETH_RSS_RETA_SIZE_512)
		return -ENOTSUP;
	return 0;
}

int rvs_port_spread(uint16_t port, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	struct rte_eth_dev_info info;
	unsigned int i, group, slot;
	int rc;

	rc = reta_info(port, &info);
	if (rc != 0)
		return rc;
	if (queues == 0)
		return -ENOTSUP;
	memset(table, 0, sizeof(table));
	for (i = 0; i < info.reta_size; i++) {
		group = i / RTE_ETH_RETA_GROUP_SIZE;
		slot = i % RTE_ETH_RETA_GROUP_SIZE;
		table[group].mask |= UINT64_C(1) << slot;
		table[group].reta[slot] = i % queues;
	}
	return rte_eth_dev_rss_reta_update(port, table, info.reta_size);
}

#define VRRP 112
#define SOLICITATION 135
#define ADVERTISEMENT 136

static const struct rte_flow_item_eth arp = { .hdr.ether_type = RTE_BE16(RTE_ETHER_TYPE_ARP) };
static const struct rte_flow_item_eth arp_mask = { .hdr.ether_type = RTE_BE16(0xffff) };
static const struct rte_flow_item_ipv4 vrrp4 = { .hdr.next_proto_id = VRRP };
static const struct rte_flow_item_ipv4 vrrp4_mask = { .hdr.next_proto_id = 0xff };
static const struct rte_flow_item_ipv6 vrrp6 = { .hdr.proto = VRRP };
static const struct rte_flow_item_ipv6 vrrp6_mask = { .hdr.proto = 0xff };
static const struct rte_flow_item_icmp6 solicitation = { .type = SOLICITATION };
static const struct rte_flow_item_icmp6 advertisement = { .type = ADVERTISEMENT };
static const struct rte_flow_item_icmp6 nd_mask = { .type = 0xff };

#define ITEM(name, what, bits) \
	{ .type = RTE_FLOW_ITEM_TYPE_##name, .spec = (what), .mask = (bits) }
#define END ITEM(END, NULL, NULL)

/* Untagged frames only: a driver that looks behind tags does that by itself. */
static const struct {
	uint32_t kind;
	struct rte_flow_item pattern[4];
} urgent[] = {
	{ RVS_URGENT_ARP, { ITEM(ETH, &arp, &arp_mask), END } },
	{ RVS_URGENT_VRRP4, { ITEM(ETH, NULL, NULL), ITEM(IPV4, &vrrp4, &vrrp4_mask), END } },
	{ RVS_URGENT_VRRP6, { ITEM(ETH, NULL, NULL), ITEM(IPV6, &vrrp6, &vrrp6_mask), END } },
	{ RVS_URGENT_ND,
	  { ITEM(ETH, NULL, NULL), ITEM(IPV6, NULL, NULL), ITEM(ICMP6, &solicitation, &nd_mask),
	    END } },
	{ RVS_URGENT_ND,
	  { ITEM(ETH, NULL, NULL), ITEM(IPV6, NULL, NULL), ITEM(ICMP6, &advertisement, &nd_mask),
	    END } },
};

/* Kinds whose rules are all taken, with `make` made too. */
static uint32_t urgent_rules(uint16_t port, uint16_t queue, bool make)
{
	const struct rte_flow_attr attr = { .ingress = 1 };
	const struct rte_flow_action_queue to = { .index = queue };
	const struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	struct rte_flow_error error;
	uint32_t taken = 0, refused = 0;
	bool works;
	size_t i;

	for (i = 0; i < RTE_DIM(urgent); i++) {
		works = rte_flow_validate(port, &attr, urgent[i].pattern, actions, &error) == 0;
		if (works && make)
			works = rte_flow_create(port, &attr, urgent[i].pattern, actions, &error) != NULL;
		if (works)
			taken |= urgent[i].kind;
		else
			refused |= urgent[i].kind;
	}
	return taken & ~refused;
}

uint32_t rvs_urgent_offered(uint16_t port, uint16_t queue)
{
	return urgent_rules(port, queue, false);
}

uint32_t rvs_urgent_set(uint16_t port, uint16_t queue)
{
	return urgent_rules(port, queue, true);
}

void rvs_urgent_clear(uint16_t port)
{
	struct rte_flow_error error;

	rte_flow_flush(port, &error);
}

int rvs_port_steer(uint16_t port, const uint8_t *key, const uint16_t *queues)
{
	struct rte_eth_rss_reta_entry64 want[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	struct rte_eth_rss_reta_entry64 have[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	uint8_t told[256], read[256];
	struct rte_eth_rss_conf conf;
	struct rte_eth_dev_info info;
	unsigned int i, group, slot;
	int rc;

	rc = reta_info(port, &info);
	if (rc != 0)
		return rc;
	memset(want, 0, sizeof(want));
	memset(have, 0, sizeof(have));
	for (i = 0; i < info.reta_size; i++) {
		group = i / RTE_ETH_RETA_GROUP_SIZE;
		slot = i % RTE_ETH_RETA_GROUP_SIZE;
		want[group].mask |= UINT64_C(1) << slot;
		have[group].mask |= UINT64_C(1) << slot;
		want[group].reta[slot] = queues[i % RVS_RSS_BUCKETS];
	}
	rc = rte_eth_dev_rss_reta_update(port, want, info.reta_size);
	if (rc != 0)
		return rc;
	rc = rte_eth_dev_rss_reta_query(port, have, info.reta_size);
	if (rc != 0)
		return rc;
	for (i = 0; i < info.reta_size; i++) {
		group = i / RTE_ETH_RETA_GROUP_SIZE;
		slot = i % RTE_ETH_RETA_GROUP_SIZE;
		if (have[group].reta[slot] != want[group].reta[slot])
			return -EPROTO;
	}
	memset(told, 0, sizeof(told));
	memcpy(told, key, RVS_RSS_KEY);
	memset(read, 0xff, sizeof(read));
	memset(&conf, 0, sizeof(conf));
	conf.rss_key = read;
	conf.rss_key_len = info.hash_key_size;
	rc = rte_eth_dev_rss_hash_conf_get(port, &conf);
	if (rc != 0)
		return rc;
	if ((conf.rss_hf & STEERED_KINDS) != STEERED_KINDS ||
	    memcmp(read, told, info.hash_key_size) != 0)
		return -EPROTO;
	return 0;
}

int rvs_port_stats(uint16_t port, struct rvs_port_stats *out)
{
	struct rte_eth_stats stats;
	int rc = rte_eth_stats_get(port, &stats);

	if (rc != 0)
		return rc;
	out->rx_packets = stats.ipackets;
	out->rx_bytes = stats.ibytes;
	out->rx_missed = stats.imissed;
	out->rx_errors = stats.ierrors;
	out->rx_no_mbuf = stats.rx_nombuf;
	out->tx_packets = stats.opackets;
	out->tx_bytes = stats.obytes;
	out->tx_errors = stats.oerrors;
	return 0;
}

int rvs_port_xstats(uint16_t port, char (*names)[64], uint64_t *values, unsigned int capacity)
{
	struct rte_eth_xstat *stats;
	struct rte_eth_xstat_name *labels;
	int count, labelled, i;

	if (capacity == 0)
		return rte_eth_xstats_get(port, NULL, 0);
	stats = calloc(capacity, sizeof(*stats));
	labels = calloc(capacity, sizeof(*labels));
	if (stats == NULL || labels == NULL) {
		free(stats);
		free(labels);
		return -ENOMEM;
	}
	count = rte_eth_xstats_get(port, stats, capacity);
	labelled = rte_eth_xstats_get_names(port, labels, capacity);
	if (count >= 0 && labelled >= 0 && (unsigned int)count <= capacity) {
		for (i = 0; i < count; i++) {
			bool known = stats[i].id < (uint64_t)labelled && stats[i].id < capacity;

			snprintf(names[i], sizeof(names[i]), "%s",
				 known ? labels[stats[i].id].name : "unknown");
			values[i] = stats[i].value;
		}
	} else if (labelled < 0) {
		count = labelled;
	}
	free(stats);
	free(labels);
	return count;
}

int rvs_port_link(uint16_t port, struct rvs_link *out)
{
	struct rte_eth_link link;
	int rc;

	memset(&link, 0, sizeof(link));
	rc = rte_eth_link_get_nowait(port, &link);
	if (rc != 0)
		return rc;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	out->mbps = link.link_speed;
	return 0;
}

/* The driver's own functions. It is a plugin: whoever uses no bond need not have it. */
static void *bond_symbol(const char *name)
{
	char file[64];
	void *lib;

	snprintf(file, sizeof(file), "librte_net_bond.so.%d", RTE_VER_YEAR + 1);
	/* Only if EAL has loaded it already. */
	lib = dlopen(file, RTLD_NOW | RTLD_NOLOAD);
	return lib != NULL ? dlsym(lib, name) : NULL;
}

int rvs_bond_active(uint16_t bond)
{
	int (*get)(uint16_t) = (int (*)(uint16_t))bond_symbol("rte_eth_bond_primary_get");

	return get != NULL ? get(bond) : -ENOTSUP;
}

int rvs_bond_prefer(uint16_t bond, uint16_t member)
{
	int (*set)(uint16_t, uint16_t) =
		(int (*)(uint16_t, uint16_t))bond_symbol("rte_eth_bond_primary_set");

	int rc = set != NULL ? set(bond, member) : -ENOTSUP;

	/* Until the driver gives it the bond's address, frames for that one have to pass. */
	if (rc == 0)
		rte_eth_promiscuous_enable(member);
	return rc;
}

static struct rte_ether_addr ether_addr(const uint8_t mac[6])
{
	struct rte_ether_addr addr;

	memcpy(&addr, mac, sizeof(addr));
	return addr;
}

int rvs_port_mac_add(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr addr = ether_addr(mac);

	return rte_eth_dev_mac_addr_add(port, &addr, 0);
}

int rvs_port_mac_remove(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr addr = ether_addr(mac);

	return rte_eth_dev_mac_addr_remove(port, &addr);
}

int rvs_port_mac_set(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr addr = ether_addr(mac);

	return rte_eth_dev_default_mac_addr_set(port, &addr);
}

int rvs_port_multicast_set(uint16_t port, const uint8_t *macs, uint32_t count)
{
	struct rte_ether_addr *addrs = NULL;
	uint32_t i;
	int rc;

	if (count != 0) {
		addrs = calloc(count, sizeof(*addrs));
		if (addrs == NULL)
			return -ENOMEM;
		for (i = 0; i < count; i++)
			addrs[i] = ether_addr(macs + 6 * (size_t)i);
	}
	rc = rte_eth_dev_set_mc_addr_list(port, addrs, count);
	free(addrs);
	return rc;
}

struct rvs_port_watch {
	uint16_t port;
	rvs_port_event_fn call;
	void *context;
};

static int on_event(uint16_t port, enum rte_eth_event_type event, void *arg, void *ret)
{
	struct rvs_port_watch *watch = arg;

	(void)port;
	(void)ret;
	if (event == RTE_ETH_EVENT_INTR_LSC)
		watch->call(RVS_EVENT_LINK, watch->context);
	else if (event == RTE_ETH_EVENT_INTR_RMV)
		watch->call(RVS_EVENT_REMOVED, watch->context);
	return 0;
}

static void stop_events(struct rvs_port_watch *watch, enum rte_eth_event_type event)
{
	/* -EAGAIN: the callback is running right now on the interrupt thread. */
	while (rte_eth_dev_callback_unregister(watch->port, event, on_event, watch) == -EAGAIN)
		rte_pause();
}

struct rvs_port_watch *rvs_port_watch(uint16_t port, rvs_port_event_fn call, void *context)
{
	struct rvs_port_watch *watch = malloc(sizeof(*watch));

	if (watch == NULL)
		return NULL;
	watch->port = port;
	watch->call = call;
	watch->context = context;
	if (rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_LSC, on_event, watch) != 0) {
		free(watch);
		return NULL;
	}
	if (rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RMV, on_event, watch) != 0) {
		stop_events(watch, RTE_ETH_EVENT_INTR_LSC);
		free(watch);
		return NULL;
	}
	return watch;
}

void rvs_port_unwatch(struct rvs_port_watch *watch)
{
	stop_events(watch, RTE_ETH_EVENT_INTR_LSC);
	stop_events(watch, RTE_ETH_EVENT_INTR_RMV);
	free(watch);
}
