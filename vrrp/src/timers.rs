//! Intervals of VRRP in keepalived's arithmetic: integers, microseconds, rounded down.

use core::fmt;
use core::time::Duration;

use crate::packet::Version;

/// The time between two adverts of a master.
///
/// Version 2 carries whole seconds, 1 to 255; version 3 centiseconds, 1 to 4095 (RFC 5798,
/// 5.2.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdvertInterval {
    /// Microseconds, a multiple of the wire's unit.
    micros: u32,
}

/// An interval that no advert can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "advert interval {given:?} is out of range for VRRP version {version} ({lowest} to {highest}); use {nearest}"
)]
pub struct IntervalError {
    /// What was asked for.
    pub given: Duration,
    /// The version whose wire format does not have it.
    pub version: Version,
    /// The shortest there is.
    pub lowest: AdvertInterval,
    /// The longest there is.
    pub highest: AdvertInterval,
    /// The one to use instead, as keepalived does.
    pub nearest: AdvertInterval,
}

/// Microseconds of the unit on the wire, and the highest count of them.
const fn wire_unit(version: Version) -> (u32, u32) {
    match version {
        Version::V2 => (1_000_000, 255),
        Version::V3 => (10_000, 4095),
    }
}

impl AdvertInterval {
    /// One second, the default of both versions.
    pub const DEFAULT: AdvertInterval = AdvertInterval { micros: 1_000_000 };

    /// The interval next to `wanted` that `version` can carry.
    ///
    /// # Errors
    /// Out of the version's range; the error holds the nearest interval that is not.
    pub fn new(version: Version, wanted: Duration) -> Result<AdvertInterval, IntervalError> {
        let (unit, most) = wire_unit(version);
        let units = wanted.as_micros().saturating_add(u128::from(unit / 2)) / u128::from(unit);
        let (lowest, highest) = (unit, unit * most);
        match u32::try_from(units) {
            Ok(units) if (1..=most).contains(&units) => Ok(AdvertInterval {
                micros: units * unit,
            }),
            units => Err(IntervalError {
                given: wanted,
                version,
                lowest: AdvertInterval { micros: lowest },
                highest: AdvertInterval { micros: highest },
                nearest: AdvertInterval {
                    micros: if units == Ok(0) { lowest } else { highest },
                },
            }),
        }
    }

    /// The interval of a field on the wire: seconds in version 2, centiseconds in version 3.
    /// `None` for 0, which would make every backup a master, and for what the field cannot hold.
    pub fn from_wire(version: Version, field: u16) -> Option<AdvertInterval> {
        let (unit, most) = wire_unit(version);
        let units = u32::from(field);
        (1..=most).contains(&units).then(|| AdvertInterval {
            micros: units * unit,
        })
    }

    /// The field on the wire: seconds in version 2, centiseconds in version 3.
    pub const fn to_wire(self, version: Version) -> u16 {
        (self.micros / wire_unit(version).0) as u16
    }

    /// Whether `version` can carry this interval.
    pub const fn fits(self, version: Version) -> bool {
        let (unit, most) = wire_unit(version);
        self.micros >= unit && self.micros.is_multiple_of(unit) && self.micros / unit <= most
    }

    /// The interval.
    pub const fn duration(self) -> Duration {
        Duration::from_micros(self.micros as u64)
    }
}

impl fmt::Display for AdvertInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.duration())
    }
}

impl fmt::Debug for AdvertInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `Skew_Time`: how much longer a router of this priority waits, so that the highest priority
/// is first.
///
/// Version 2: (256 − priority) / 256 seconds, whatever the interval (RFC 3768, 6.1). Version 3:
/// that part of the master's interval (RFC 5798, 6.1).
pub const fn skew(version: Version, priority: u8, interval: AdvertInterval) -> Duration {
    let lack = 256 - priority as u64;
    Duration::from_micros(match version {
        Version::V2 => lack * 1_000_000 / 256,
        Version::V3 => lack * (interval.micros / 10_000) as u64 * 625 / 16,
    })
}

/// `Master_Down_Interval`: how long a backup waits for the next advert. `adverts` is 3 by the
/// RFCs, `down_timer_adverts` in keepalived.
pub fn master_down(
    version: Version,
    priority: u8,
    interval: AdvertInterval,
    adverts: u8,
) -> Duration {
    interval.duration() * u32::from(adverts) + skew(version, priority, interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(version: Version, secs: f64) -> AdvertInterval {
        AdvertInterval::new(version, Duration::from_secs_f64(secs)).unwrap()
    }

    #[test]
    fn formulas_of_both_versions() {
        let v2 = secs(Version::V2, 1.0);
        // 156 000 000 / 256 = 609 375 µs, as measured with keepalived: 3.610 s and 0.620 s.
        assert_eq!(skew(Version::V2, 100, v2), Duration::from_micros(609_375));
        assert_eq!(
            master_down(Version::V2, 100, v2, 3),
            Duration::from_micros(3_609_375)
        );
        // The skew of version 2 does not follow the interval.
        assert_eq!(
            skew(Version::V2, 100, secs(Version::V2, 255.0)),
            skew(Version::V2, 100, v2)
        );

        let v3 = secs(Version::V3, 0.1);
        // 156 × 10 × 625 / 16 = 60 937.5, rounded down.
        assert_eq!(skew(Version::V3, 100, v3), Duration::from_micros(60_937));
        assert_eq!(
            master_down(Version::V3, 100, v3, 3),
            Duration::from_micros(360_937)
        );
        assert_eq!(
            master_down(Version::V3, 150, secs(Version::V3, 0.2), 3).as_micros(),
            682_812
        );
        // The ends.
        assert_eq!(
            skew(Version::V3, 255, secs(Version::V3, 0.01)),
            Duration::from_micros(39)
        );
        assert_eq!(
            skew(Version::V3, 1, secs(Version::V3, 40.95)).as_micros(),
            40_790_039
        );
        assert_eq!(
            master_down(Version::V3, 255, secs(Version::V3, 0.01), 1).as_micros(),
            10_039
        );
        assert_eq!(
            master_down(Version::V2, 1, secs(Version::V2, 255.0), 100).as_secs(),
            25_500
        );
    }

    #[test]
    fn intervals_are_rounded_to_the_wire() {
        assert_eq!(secs(Version::V2, 1.4), secs(Version::V2, 1.0));
        assert_eq!(secs(Version::V2, 1.5), secs(Version::V2, 2.0));
        assert_eq!(secs(Version::V3, 0.014), secs(Version::V3, 0.01));
        assert_eq!(secs(Version::V3, 40.95).to_wire(Version::V3), 4095);
        assert_eq!(secs(Version::V2, 255.0).to_wire(Version::V2), 255);
        assert!(!secs(Version::V3, 0.25).fits(Version::V2));
        assert!(secs(Version::V2, 41.0).fits(Version::V2));
        assert!(!secs(Version::V2, 41.0).fits(Version::V3));
    }

    #[test]
    fn impossible_intervals_name_the_nearest() {
        for (version, wanted, nearest) in [
            (Version::V2, 0.4, 1.0),
            (Version::V2, 256.0, 255.0),
            (Version::V3, 0.004, 0.01),
            (Version::V3, 41.0, 40.95),
            (Version::V3, 1e12, 40.95),
        ] {
            let error = AdvertInterval::new(version, Duration::from_secs_f64(wanted)).unwrap_err();
            assert_eq!(error.nearest, secs(version, nearest), "{wanted}");
        }
        let error = AdvertInterval::new(Version::V2, Duration::from_millis(300)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "advert interval 300ms is out of range for VRRP version 2 (1s to 255s); use 1s"
        );
    }

    #[test]
    fn every_field_of_the_wire_goes_both_ways() {
        for (version, most) in [(Version::V2, 255), (Version::V3, 4095)] {
            for field in 1..=most {
                let interval = AdvertInterval::from_wire(version, field).unwrap();
                assert_eq!(interval.to_wire(version), field);
                assert!(interval.fits(version));
            }
            assert_eq!(AdvertInterval::from_wire(version, 0), None);
            assert_eq!(AdvertInterval::from_wire(version, most + 1), None);
        }
    }
}
