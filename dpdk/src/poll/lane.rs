//! One port as a worker sees it: where its frames come from and go to.

use dataplane::packet::{PortId, PuntClass};
use dataplane::worker::Backlog;

use crate::ahead::Ahead;
use crate::mbuf::Burst;
use crate::port::{RxQueue, TxQueue};
use crate::ring::{Receiver, Sender};

/// One port as a worker sees it.
pub struct Lane {
    /// Number of the port.
    pub port: PortId,
    /// Frames from the wire; none if another worker polls the port.
    pub rx: Option<RxQueue>,
    /// Frames from the wire that must not wait behind those; one worker takes them.
    pub urgent: Option<RxQueue>,
    /// Where frames go to.
    pub tx: Way,
    /// Frames for the kernel twin, by class.
    pub punt: [Sender; PuntClass::COUNT],
    /// Frames of the kernel twin for the wire; one worker takes them.
    pub from_kernel: Option<Receiver>,
    /// Complete transport checksums that a peer on this host left to the hardware.
    pub completes_checksums: bool,
    /// Largest IP packet on the wire, if a peer on this host leaves it to the hardware to cut TCP
    /// packets to that. All frames are copied out of the long buffers they come in.
    pub cuts_to: Option<u16>,
    /// NICs do something for the frames of this or another port: flags of mbufs are read and written.
    pub assisted: bool,
    /// Frames that the ring of its receive queue holds.
    pub ring: u16,
    /// Waiting to be sent.
    pub(super) out: Burst,
    /// Whether its receive queue stays full.
    pub(super) backlog: Backlog,
    pub(super) ahead: Ahead,
}

impl Lane {
    /// Puts a lane together.
    pub fn new(
        port: PortId,
        rx: impl Into<Option<RxQueue>>,
        tx: impl Into<Way>,
        punt: [Sender; PuntClass::COUNT],
        from_kernel: impl Into<Option<Receiver>>,
        completes_checksums: bool,
    ) -> Lane {
        Lane {
            port,
            rx: rx.into(),
            urgent: None,
            tx: tx.into(),
            punt,
            from_kernel: from_kernel.into(),
            completes_checksums,
            cuts_to: None,
            assisted: false,
            ring: 1024,
            out: Burst::new(),
            backlog: Backlog::default(),
            ahead: Ahead::new(),
        }
    }
}

/// How a worker's frames reach the wire of a port.
#[derive(Debug)]
pub enum Way {
    /// By a queue of its own.
    Queue(TxQueue),
    /// By the worker with this number: the port has fewer queues than there are workers.
    Worker(usize),
}

impl From<TxQueue> for Way {
    fn from(queue: TxQueue) -> Way {
        Way::Queue(queue)
    }
}
