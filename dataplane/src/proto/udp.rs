//! UDP as IPVS follows it: one state, its timeout renewed in both directions, never active.

/// The state.
pub const NORMAL: u8 = 0;
/// Its name in listings.
pub const NAME: &str = "UDP";
