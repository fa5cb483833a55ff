//! The one unsafe line of the core: a hint to the cache.

/// Asks the cache for the line that `value` starts in. Only a hint: it changes no state that
/// a program can see.
#[inline(always)]
#[allow(unsafe_code)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the pointer comes from a live reference, and the instruction never faults nor
    // writes. It needs SSE, which every x86_64 target has.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
            core::ptr::from_ref(value).cast(),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
