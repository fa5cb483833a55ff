//! What persistence engines keep beside their templates: a Call-ID each. Room for all of it is
//! set aside at the start; the memory is touched when it is used first.

use super::entry::NIL;
use super::hash::HashKey;

/// Longest piece of data, bytes (`IP_VS_PEDATA_MAXLEN`).
pub const MAX_DATA: usize = 255;

/// Templates with data, in one worker.
pub const CAPACITY: usize = 1 << 16;

/// Length and bytes. Of a free slot the bytes begin with the number of the next.
type Slot = [u8; 1 + MAX_DATA];

/// See the module.
#[derive(Debug)]
pub struct EngineData {
    slots: Box<[Slot]>,
    /// First slot given back.
    free: u32,
    /// Slots from here on were never used.
    fresh: u32,
}

impl EngineData {
    /// Room for so many.
    pub fn new(capacity: usize) -> EngineData {
        EngineData {
            slots: vec![[0; 1 + MAX_DATA]; capacity].into_boxed_slice(),
            free: NIL,
            fresh: 0,
        }
    }

    /// Keeps a copy and says where; `None` without room, or for data that is too long or empty.
    pub fn put(&mut self, data: &[u8]) -> Option<u32> {
        let len = u8::try_from(data.len()).ok().filter(|len| *len > 0)?;
        let from_list = self.free != NIL;
        let at = if from_list { self.free } else { self.fresh };
        let slot = self.slots.get_mut(at as usize)?;
        if from_list {
            let [_, a, b, c, d, ..] = *slot;
            self.free = u32::from_ne_bytes([a, b, c, d]);
        } else {
            self.fresh += 1;
        }
        slot[0] = len;
        slot.get_mut(1..1 + data.len())?.copy_from_slice(data);
        Some(at)
    }

    /// What was kept there.
    pub fn get(&self, at: u32) -> &[u8] {
        self.slots
            .get(at as usize)
            .and_then(|slot| slot.get(1..1 + usize::from(slot[0])))
            .unwrap_or(&[])
    }

    /// Makes room.
    pub fn free(&mut self, at: u32) {
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot[0] = 0;
            slot[1..5].copy_from_slice(&self.free.to_ne_bytes());
            self.free = at;
        }
    }
}

/// Stands in for the data in the tuple that a template is found by, never 0. It is keyed, so
/// that nobody can make up data that meet.
pub fn tag(key: &HashKey, data: &[u8]) -> u16 {
    let mut bits = data.len() as u64;
    for (i, chunk) in (0..).zip(data.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        bits = key.hash_v4(0, bits ^ u64::from_le_bytes(word), i).bits;
    }
    ((bits >> 32) as u16).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const KEY: HashKey = HashKey([
        0x9e37_79b9_7f4a_7c15,
        0xd1b5_4a32_d192_ed03,
        0xaef1_7502_108e_f2d9,
        7919,
    ]);

    #[test]
    fn data_come_and_go() {
        let mut all = EngineData::new(3);
        let [a, b, c] = ["one", "two", "three"].map(|text| all.put(text.as_bytes()).unwrap());
        assert_eq!(all.put(b"four"), None);
        all.free(b);
        all.free(a);
        assert_eq!(
            (all.get(a), all.get(b), all.get(c)),
            (&b""[..], &b""[..], &b"three"[..])
        );
        let long = [b'x'; MAX_DATA];
        let d = all.put(&long).unwrap();
        assert_eq!(all.get(d), long);
        assert_eq!(
            all.put(b"5").map(|at| all.get(at).to_vec()),
            Some(b"5".to_vec())
        );
        assert_eq!(all.put(b"six"), None);
        assert_eq!(all.get(c), b"three");
        assert_eq!(all.get(99), b"");
    }

    #[test]
    fn what_nobody_keeps() {
        let mut all = EngineData::new(1);
        assert_eq!(all.put(b""), None);
        assert_eq!(all.put(&[b'x'; MAX_DATA + 1]), None);
        assert!(all.put(b"x").is_some());
    }

    #[test]
    fn tags_spread() {
        let mut seen: HashMap<u16, u32> = HashMap::new();
        for n in 0..20_000 {
            *seen
                .entry(tag(&KEY, format!("{n}@host").as_bytes()))
                .or_default() += 1;
        }
        assert!(!seen.contains_key(&0));
        assert!(seen.len() > 16_000, "{}", seen.len());
        assert!(seen.values().all(|&n| n < 8));
    }
}
