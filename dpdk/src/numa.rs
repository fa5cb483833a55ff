//! NUMA: memory of a worker lies on the node of its core.

use core::ffi::c_void;
use std::io;
use std::ops::Range;
use std::panic;
use std::thread;

use crate::lcore;

/// Rule of `mbind(2)`: pages come from this node, or from another one if it has none left.
const PREFERRED: i32 = 1;

/// Pages that are elsewhere already move.
const MOVE: u32 = 1 << 1;

/// Memory is placed in pieces of this many bytes: a usual hugepage, which is on one node.
pub const PIECE: usize = 2 << 20;

/// Nodes that a mask for the kernel has room for.
const NODES: u32 = 1024;

/// Has `bytes[range]` on a node from now on; pages that are there already move. Only whole
/// [`PIECE`]s, by address, are placed.
///
/// # Errors
/// The kernel's: it knows no NUMA or no such node, or may not move pages.
pub fn place(bytes: &mut [u8], range: Range<usize>, node: u32) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let stretch = bytes.get_mut(range).ok_or_else(invalid)?;
    let start = stretch.as_ptr() as usize;
    let from = start.next_multiple_of(PIECE);
    let to = (start + stretch.len()) / PIECE * PIECE;
    if from >= to {
        return Ok(());
    }
    let mut mask = [0u64; NODES as usize / 64];
    let word = mask.get_mut(node as usize / 64).ok_or_else(invalid)?;
    *word = 1 << (node % 64);
    // SAFETY: whole pages within memory that is borrowed mutably; contents stay as they are. The
    // kernel reads one bit less of the mask than it is told.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            from as *mut c_void,
            to - from,
            PREFERRED,
            mask.as_ptr(),
            u64::from(NODES),
            MOVE,
        )
    };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `work` on a core, on a thread of its own: what that is the first to touch comes from the
/// core's node. Where the core cannot be had it runs anywhere.
///
/// # Panics
/// As `work` does.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> T {
    let run = move || {
        // Memory of another node is slower, and nothing else.
        let _ = lcore::set_affinity(&[core]);
        work()
    };
    match thread::scope(|scope| scope.spawn(run).join()) {
        Ok(made) => made,
        Err(why) => panic::resume_unwind(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::region::{Backing, Region};

    /// On which node the page of an address is (`move_pages(2)` without a target).
    fn node_of(address: *const u8) -> i32 {
        let (pages, mut status) = ([address], [-1i32]);
        // SAFETY: one address to read and one number to write.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                1usize,
                pages.as_ptr(),
                core::ptr::null::<i32>(),
                status.as_mut_ptr(),
                0,
            )
        };
        assert_eq!(rc, 0, "{}", io::Error::last_os_error());
        status[0]
    }

    #[test]
    fn memory_is_placed_in_whole_pieces() {
        let core = lcore::affinity().unwrap()[0];
        // A kernel without NUMA tells no node, and has nothing to place.
        let Some(node) = Host::this().core_node(core) else {
            return;
        };
        let region = Region::map(&Backing::Anonymous, 4 * PIECE, false).unwrap();
        let bytes = region.into_bytes();
        place(bytes, 0..4 * PIECE, node).unwrap();
        bytes.fill(1);
        assert_eq!(node_of(&bytes[2 * PIECE]), node as i32);
        assert!(place(bytes, 0..4 * PIECE, 1000).is_err(), "no such node");
        assert!(place(bytes, 0..4 * PIECE, NODES).is_err(), "too many");
        let beyond = bytes.len() + 1;
        assert!(place(bytes, 0..beyond, node).is_err());
        place(bytes, 7..9, node).unwrap();
        assert_eq!(bytes[7..9], [1, 1]);
    }

    #[test]
    fn work_runs_on_its_core() {
        let core = *lcore::affinity().unwrap().last().unwrap();
        assert_eq!(on_core(core, || lcore::affinity().unwrap()), [core]);
        assert_eq!(on_core(usize::MAX, || 7), 7);
    }
}
