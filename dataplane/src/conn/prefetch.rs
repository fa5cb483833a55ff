//! The one unsafe line of the core: a hint to the cache.

/// Where a cache line lies that may be asked for; nothing is ever read there.
#[derive(Clone, Copy, Debug)]
pub struct Line(usize);

/// Bytes of a line.
const BYTES: usize = 64;

impl Line {
    /// The line that `value` starts in.
    #[inline(always)]
    pub fn of<T>(value: &T) -> Line {
        Line(core::ptr::from_ref(value).addr())
    }

    /// The line that an element of a slice starts in. If the slice is shorter, it is some line: that
    /// takes no comparison.
    #[inline(always)]
    pub fn of_nth<T>(slice: &[T], at: usize) -> Line {
        let offset = at.wrapping_mul(size_of::<T>());
        Line(slice.as_ptr().addr().wrapping_add(offset))
    }

    /// One that costs nothing to ask for: others use it all the time.
    #[inline(always)]
    pub fn nowhere() -> Line {
        static NOWHERE: u8 = 0;
        Line::of(&NOWHERE)
    }

    /// The line after this one.
    #[inline(always)]
    pub fn next(self) -> Line {
        Line(self.0.wrapping_add(BYTES))
    }

    /// Asks the cache for the line. Only a hint: it changes no state that a program can see.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction takes any address, mapped or not: it never faults, reads nothing
        // into a register and writes nothing. It needs SSE, which every x86_64 target has.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
                core::ptr::without_provenance(self.0),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = self;
    }
}

/// Asks the cache for the line that `value` starts in.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    Line::of(value).prefetch();
}
