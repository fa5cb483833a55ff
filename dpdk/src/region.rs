//! Large memory that is not packets: connection tables.
//!
//! A region is mapped for ever, so it can be lent as `&'static mut [u8]`. Backed by a file on
//! hugetlbfs or tmpfs it outlives the process: the next one finds the same bytes.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstatfs, ftruncate};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use thiserror::Error;

/// Every region starts at a multiple of this many bytes, at least.
pub const ALIGNMENT: usize = 4096;

/// Usual size of a hugepage, bytes.
const HUGE: usize = 2 << 20;

const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Why a region could not be mapped.
#[derive(Debug, Error)]
pub enum RegionError {
    /// Zero bytes, or more than can be addressed.
    #[error("a region of {0} bytes cannot be mapped")]
    Length(usize),
    /// The file cannot be opened or made.
    #[error("region file {}: {cause}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another mapping of the file is in use.
    #[error("region file {} is in use by another process (or twice in this one)", .0.display())]
    InUse(PathBuf),
    /// The file has another size.
    #[error(
        "region file {} has {have} bytes, not {want}: it belongs to another configuration; delete \
         it to start with empty tables", .path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes it has.
        have: u64,
        /// Bytes it should have.
        want: u64,
    },
    /// Not enough memory.
    #[error(
        "{len} bytes of memory could not be had{from}: {cause}; free memory or hugepages, or make \
         the tables smaller"
    )]
    Memory {
        /// Bytes asked for.
        len: usize,
        /// Where from.
        from: String,
        /// Why.
        cause: io::Error,
    },
}

/// Where the memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A file on hugetlbfs or tmpfs, made if it does not exist.
    File(PathBuf),
    /// Nowhere: gone with the process.
    Anonymous,
}

/// What kind of pages a region got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Hugepages of this many bytes.
    Huge(usize),
    /// Ordinary pages that the kernel was asked to join into large ones.
    Advised,
    /// Ordinary pages.
    Small,
}

/// Memory that stays mapped until the process ends.
#[derive(Debug)]
pub struct Region {
    bytes: &'static mut [u8],
    is_new: bool,
    pages: Pages,
}

impl Region {
    /// Maps `len` bytes, rounded up to whole pages of the backing. With `prefault`, all memory is
    /// taken now; without, at first touch (by the worker that will use it, on its NUMA node).
    ///
    /// Memory that is new is zero. A file keeps an exclusive lock until the process ends.
    ///
    /// # Errors
    /// See [`RegionError`]. A file that was there is left as it was.
    pub fn map(backing: &Backing, len: usize, prefault: bool) -> Result<Region, RegionError> {
        if len == 0 || len > isize::MAX as usize - HUGE {
            return Err(RegionError::Length(len));
        }
        match backing {
            Backing::File(path) => map_file(path, len, prefault),
            Backing::Anonymous => map_anonymous(len, prefault),
        }
    }

    /// Whether the bytes are all zero because nobody has used them yet; otherwise they are what an
    /// earlier process left.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What kind of pages it got.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Bytes, after rounding up.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The memory, for ever.
    pub fn into_bytes(self) -> &'static mut [u8] {
        self.bytes
    }
}

/// Files that are mapped, for their locks.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Gives up the locks of regions that a process after this one is to map. From here on nothing of
/// this one touches their bytes: whoever had them has ended.
pub fn release_all() {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for file in held.drain(..) {
        // Closing is not enough: the mapping keeps the file, and the file its lock.
        let _ = flock(&file, FlockOperation::Unlock);
    }
}

fn map_file(path: &Path, len: usize, prefault: bool) -> Result<Region, RegionError> {
    let failed = |cause: io::Error| RegionError::File {
        path: path.to_owned(),
        cause,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(RegionError::InUse(path.to_owned())),
        Err(e) => return Err(failed(e.into())),
    }
    let pages = pages_of(&file).map_err(failed)?;
    let page = match pages {
        Pages::Huge(size) => size,
        _ => ALIGNMENT,
    };
    let len = len.next_multiple_of(page);
    let have = file.metadata().map_err(failed)?.len();
    let is_new = have == 0;
    if is_new {
        ftruncate(&file, len as u64).map_err(|e| failed(e.into()))?;
    } else if have != len as u64 {
        return Err(RegionError::Size {
            path: path.to_owned(),
            have,
            want: len as u64,
        });
    }
    let taken = take_file(&file, len, pages, prefault);
    let address = taken.map_err(|cause| {
        if is_new {
            // Leave no file that claims to hold tables.
            let _ = ftruncate(&file, 0);
        }
        RegionError::Memory {
            len,
            from: format!(" from {}", path.display()),
            cause,
        }
    })?;
    // The lock lasts as long as the descriptor, and that as long as the mapping or until `release`.
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.push(file);
    // SAFETY: mapped just now, readable and writable, `len` bytes, never unmapped. Nobody else maps
    // the file: the lock keeps out those who ask for it, and the file is private to its user.
    let bytes = unsafe { lend(address, len) };
    Ok(Region {
        bytes,
        is_new,
        pages,
    })
}

fn take_file(file: &File, len: usize, pages: Pages, prefault: bool) -> io::Result<NonNull<c_void>> {
    let is_huge = matches!(pages, Pages::Huge(_));
    if prefault && is_huge {
        // Running out of pages is an error here and a SIGBUS later.
        fallocate(file, FallocateFlags::empty(), 0, len as u64)?;
    }
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        mmap(
            null_mut(),
            len,
            READ_WRITE,
            MapFlags::SHARED,
            file.as_fd(),
            0,
        )
    }?;
    if !is_huge {
        // SAFETY: advice on our own fresh mapping changes no contents. tmpfs joins pages where
        // the host allows it; elsewhere this is refused, and the memory works all the same.
        let _ = unsafe { madvise(address, len, Advice::LinuxHugepage) };
    }
    if prefault {
        // SAFETY: populating only takes the pages.
        let taken = unsafe { madvise(address, len, Advice::LinuxPopulateWrite) };
        if let Err(why) = taken {
            // SAFETY: nobody has seen the mapping.
            let _ = unsafe { munmap(address, len) };
            // What would be a SIGBUS is told as a bad address: the file system is full.
            return Err(match why {
                rustix::io::Errno::FAULT => io::Error::from_raw_os_error(libc::ENOSPC),
                other => other.into(),
            });
        }
    }
    NonNull::new(address).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// What kind of pages the file system of `file` has.
fn pages_of(file: &File) -> io::Result<Pages> {
    let stat = fstatfs(file)?;
    #[allow(clippy::unnecessary_cast)] // the type differs between targets
    Ok(match stat.f_type as i64 {
        HUGETLBFS_MAGIC => Pages::Huge(stat.f_bsize as usize),
        _ => Pages::Small,
    })
}

fn map_anonymous(len: usize, prefault: bool) -> Result<Region, RegionError> {
    let len = len.next_multiple_of(HUGE);
    let (address, pages) = match map_hugepages(len, prefault) {
        Ok(address) => (address, Pages::Huge(HUGE)),
        Err(_) => {
            let failed = |cause| RegionError::Memory {
                len,
                from: String::new(),
                cause,
            };
            (map_advised(len, prefault).map_err(failed)?, Pages::Advised)
        }
    };
    // SAFETY: mapped just now, private, readable and writable, `len` bytes, never unmapped.
    let bytes = unsafe { lend(address, len) };
    Ok(Region {
        bytes,
        is_new: true,
        pages,
    })
}

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn map_hugepages(len: usize, prefault: bool) -> io::Result<NonNull<c_void>> {
    let mut flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
    if prefault {
        flags |= MapFlags::POPULATE;
    }
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { mmap_anonymous(null_mut(), len, READ_WRITE, flags) }?;
    NonNull::new(address).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// Ordinary memory aligned to hugepages, so that the kernel can join its pages.
fn map_advised(len: usize, prefault: bool) -> io::Result<NonNull<c_void>> {
    // SAFETY: a new mapping at an address of the kernel's choice; the parts cut off lie in it and
    // nobody has seen them yet.
    let start = unsafe {
        let address = mmap_anonymous(null_mut(), len + HUGE, READ_WRITE, MapFlags::PRIVATE)?;
        let before = address.align_offset(HUGE);
        let start = address.byte_add(before);
        if before > 0 {
            munmap(address, before)?;
        }
        if before < HUGE {
            munmap(start.byte_add(len), HUGE - before)?;
        }
        start
    };
    // SAFETY: advice on our own fresh mapping changes no contents; populating only takes the pages.
    unsafe {
        // A kernel without transparent hugepages refuses; the memory works all the same.
        let _ = madvise(start, len, Advice::LinuxHugepage);
        if prefault {
            madvise(start, len, Advice::LinuxPopulateWrite)?;
        }
    }
    NonNull::new(start).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// # Safety
/// `len` bytes at `address` are mapped for reading and writing for ever, and nobody else uses them.
unsafe fn lend(address: NonNull<c_void>, len: usize) -> &'static mut [u8] {
    // SAFETY: the caller's promise; mapped memory is initialised, and `len` fits an isize.
    unsafe { core::slice::from_raw_parts_mut(address.cast().as_ptr(), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_zero_and_aligned() {
        for prefault in [false, true] {
            let region = Region::map(&Backing::Anonymous, 3 << 20, prefault).unwrap();
            assert!(region.is_new());
            assert_eq!(region.len(), 4 << 20);
            let bytes = region.into_bytes();
            assert_eq!(bytes.as_ptr() as usize % HUGE, 0);
            assert!(bytes.iter().all(|&b| b == 0));
            bytes[4 << 19] = 1;
        }
    }

    #[test]
    fn lengths_that_cannot_be() {
        for len in [0, usize::MAX] {
            let error = Region::map(&Backing::Anonymous, len, false).unwrap_err();
            assert!(matches!(error, RegionError::Length(_)), "{error}");
        }
    }

    #[test]
    fn files_are_locked_and_sized() {
        let dir = tempfile::tempdir().unwrap();
        let backing = Backing::File(dir.path().join("table"));
        let region = Region::map(&backing, 5000, true).unwrap();
        assert!(region.is_new());
        assert_eq!((region.len(), region.pages()), (8192, Pages::Small));
        let error = Region::map(&backing, 5000, true).unwrap_err();
        assert!(matches!(error, RegionError::InUse(_)), "{error}");

        let other = dir.path().join("other");
        std::fs::write(&other, [7; 4096]).unwrap();
        let error = Region::map(&Backing::File(other.clone()), 5000, true).unwrap_err();
        assert!(
            matches!(
                error,
                RegionError::Size {
                    have: 4096,
                    want: 8192,
                    ..
                }
            ),
            "{error}"
        );
        let region = Region::map(&Backing::File(other), 4096, true).unwrap();
        assert!(!region.is_new());
        assert_eq!(region.into_bytes()[4095], 7);
    }
}
