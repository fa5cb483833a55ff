//! What several tests share.
#![allow(dead_code)]

pub mod lan;
pub mod rig;

use std::net::IpAddr;

/// Bytes of hexadecimal digits; blanks are for the reader.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
