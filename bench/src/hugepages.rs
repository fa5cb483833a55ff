//! Hugepages for the time of the run: as many as are missing, given back at the end.

use std::fs;

use anyhow::{Result, bail};

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// Pages that were added; dropped, they go back.
#[derive(Debug)]
pub struct Reserved {
    added: u64,
}

/// A number of `/proc/meminfo`.
fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn count() -> u64 {
    fs::read_to_string(COUNT)
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

impl Reserved {
    /// Makes sure that `mib` MiB of hugepages are free.
    ///
    /// # Errors
    /// The kernel has no hugepages, or cannot find that many.
    pub fn new(mib: u64) -> Result<Reserved> {
        let page = meminfo("Hugepagesize");
        if page == 0 {
            bail!("this kernel has no hugepages; the bench needs {mib} MiB of them");
        }
        let need = (mib * 1024).div_ceil(page);
        let free = meminfo("HugePages_Free").saturating_sub(meminfo("HugePages_Rsvd"));
        if free >= need {
            return Ok(Reserved { added: 0 });
        }
        let before = count();
        let wanted = before + need - free;
        if let Err(e) = fs::write(COUNT, wanted.to_string()) {
            bail!(
                "{mib} MiB of hugepages are needed and {} MiB are free; {COUNT} cannot be written \
                 ({e}); run as root, or: echo {wanted} > {COUNT}",
                free * page / 1024
            );
        }
        let reserved = Reserved {
            added: count().saturating_sub(before),
        };
        if count() < wanted {
            bail!(
                "{mib} MiB of hugepages are needed, but the kernel found only {} of {wanted} \
                 pages of {page} KiB: memory is too short or too fragmented; free some, or \
                 reserve them at boot with hugepages={wanted}",
                count()
            );
        }
        Ok(reserved)
    }

    /// How many pages were added.
    pub fn added(&self) -> u64 {
        self.added
    }
}

/// Takes back what [`Reserved::new`] added, whatever others did to the number meanwhile.
pub fn give_back(added: u64) {
    if added > 0 {
        let _ = fs::write(COUNT, count().saturating_sub(added).to_string());
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        give_back(core::mem::take(&mut self.added));
    }
}
