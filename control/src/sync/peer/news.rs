//! What peers make known, in lines of the log.

use super::link::Place;
use super::machine::News;

impl News {
    /// Logs it.
    pub fn log(&self, place: &Place) {
        let interface = &place.interface;
        match self {
            News::Found(peer) => {
                tracing::info!(event = "sync-peer", %peer, "a node of RVS on {interface}");
            }
            News::Left(peer) => {
                tracing::info!(event = "sync-left", %peer, "the node on {interface} ends in order");
            }
            News::Lost(peer) => tracing::warn!(
                event = "sync-lost",
                %peer,
                "nothing is heard on {interface} any more; roles stay as they are"
            ),
            News::Back(peer) => tracing::info!(event = "sync-back", %peer, "heard again"),
            News::Gap(peer, messages) => tracing::warn!(
                event = "sync-gap",
                %peer,
                messages,
                "messages were lost on {interface}; what they told is asked for again"
            ),
            News::Dropped(entries) => tracing::warn!(
                event = "sync-gap",
                entries,
                "more came on {interface} than the workers took; it is asked for again"
            ),
            News::Sockets(peer, theirs, ours) => tracing::warn!(
                event = "sync-ports",
                %peer,
                "it sends by {theirs} ports and {ours} are listened to; set sync_ports to the \
                 same on both nodes"
            ),
            News::Fetched(peer, want, entries, took) => tracing::info!(
                event = "sync-copy",
                %peer,
                entries,
                ms = took.as_millis() as u64,
                "{} of connections on {interface}",
                want.name()
            ),
            News::Failed(peer, want, reason) => tracing::warn!(
                event = "sync-copy",
                %peer,
                reason,
                "no {} of connections; it will be asked for again",
                want.name()
            ),
            News::Refused(peer, reason) => tracing::warn!(
                event = "sync-key",
                %peer,
                %reason,
                "its hellos on {interface} are not taken; give both nodes the same key_file"
            ),
            News::Taken(peer) => tracing::info!(
                event = "sync-key",
                %peer,
                "no more hellos on {interface} that are not taken"
            ),
            News::Link(true) => tracing::info!(event = "sync-link", "{interface} is up again"),
            News::Link(false) => tracing::warn!(
                event = "sync-link",
                "{interface} is down: nothing is synchronised; roles stay as they are"
            ),
        }
    }
}
