//! The kernel's sysctls by their names (`net.ipv4.vs.*`): which there are, what each may be set to.
//!
//! Those that this balancer obeys are live settings ([`SETTINGS`]), with the ranges of the
//! configuration file. The others are listed with the value that holds, and refuse any other.

use dataplane::settings::Settings;

use crate::config::{SETTINGS, Setting, keys, nearest};

/// A sysctl that cannot be changed.
struct Fixed {
    name: &'static str,
    /// What holds.
    value: &'static str,
    /// Why it cannot be changed, as the end of a line.
    why: &'static str,
}

const FIXED: &[Fixed] = &[
    Fixed {
        name: "conntrack",
        value: "0",
        why: "balanced packets never pass the kernel's connection tracking",
    },
    Fixed {
        name: "debug_level",
        value: "0",
        why: "set [log] filter in the configuration file instead",
    },
    Fixed {
        name: "ignore_tunneled",
        value: "1",
        why: "what a tunnel of this host's carried stays with the kernel and is never scheduled",
    },
    Fixed {
        name: "snat_reroute",
        value: "1",
        why: "replies are always routed by their virtual address",
    },
];

/// Modes of the defences: 1 and 2 both are "automatic", and which is shown says if it is at work.
const DEFENCES: &[&str] = &["drop_entry", "drop_packet", "secure_tcp"];

/// Keys of `[ipvs]` that are no sysctls of the kernel: `rvsadm --set` changes them, and [`PAIR`].
const NO_SYSCTLS: &[&str] = &[
    "tcp_timeout",
    "tcp_fin_timeout",
    "udp_timeout",
    "sync_period",
];

/// One sysctl of two numbers, which are two keys of the file.
const PAIR: &str = "sync_threshold";

enum Found {
    Live(&'static Setting),
    Fixed(&'static Fixed),
}

fn live() -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .filter(|s| s.section == "ipvs" && !NO_SYSCTLS.contains(&s.key))
}

fn names() -> impl Iterator<Item = &'static str> {
    live().map(|s| s.key).chain(FIXED.iter().map(|f| f.name))
}

/// Finds a sysctl by its name, with the kernel's path in front of it or without.
fn find(name: &str) -> Result<Found, String> {
    let dotted = name.replace('/', ".");
    let short = ["net.ipv4.vs.", "net.ipv4."]
        .iter()
        .find_map(|prefix| dotted.strip_prefix(prefix))
        .unwrap_or(&dotted);
    if let Some(setting) = live().find(|s| s.key == short) {
        return Ok(Found::Live(setting));
    }
    if let Some(fixed) = FIXED.iter().find(|f| f.name == short) {
        return Ok(Found::Fixed(fixed));
    }
    let near = match nearest(short, names()) {
        Some(near) => format!(" did you mean \"{near}\"?"),
        None => String::new(),
    };
    Err(format!(
        "sysctl \"{name}\" is unknown;{near} `rvsadm sysctl` lists all"
    ))
}

impl Found {
    fn row(&self, settings: &Settings, short: bool) -> (String, String) {
        match self {
            Found::Live(s) if s.key == PAIR => {
                let value = format!("{} {}", settings.sync.threshold, settings.sync.period);
                (s.key.into(), value)
            }
            Found::Live(s) => {
                let value = match (s.get)(settings) {
                    1 | 2 if DEFENCES.contains(&s.key) => 1 + u32::from(short),
                    value => value,
                };
                (s.key.into(), value.to_string())
            }
            Found::Fixed(f) => (f.name.into(), f.value.into()),
        }
    }
}

/// Name and value of each sysctl named, or of all in the order of the alphabet. `short`: free
/// entries are short, so automatic defences are at work.
///
/// # Errors
/// One line about the first name that there is not.
pub fn list(
    settings: &Settings,
    short: bool,
    wanted: &[String],
) -> Result<Vec<(String, String)>, String> {
    if !wanted.is_empty() {
        let row = |name: &String| find(name).map(|found| found.row(settings, short));
        return wanted.iter().map(row).collect();
    }
    let live = live().map(Found::Live);
    let all = live.chain(FIXED.iter().map(Found::Fixed));
    let mut rows: Vec<_> = all.map(|found| found.row(settings, short)).collect();
    rows.sort();
    Ok(rows)
}

/// Changes settings by name; all of them or none.
///
/// # Errors
/// One line about the first that is refused.
pub fn set(settings: &mut Settings, values: &[(String, String)]) -> Result<(), String> {
    let mut new = *settings;
    for (name, value) in values {
        match find(name)? {
            Found::Live(setting) if setting.key == PAIR => {
                (new.sync.threshold, new.sync.period) = read_pair(value)?;
            }
            Found::Live(setting) => (setting.set)(&mut new, read(setting, value)?),
            // A file of sysctls for the kernel may name what holds here anyway.
            Found::Fixed(fixed) if value.split_whitespace().eq(fixed.value.split(' ')) => {}
            Found::Fixed(fixed) => {
                return Err(format!(
                    "sysctl {} stays {}: {}",
                    fixed.name, fixed.value, fixed.why
                ));
            }
        }
    }
    *settings = new;
    Ok(())
}

/// Sets, then lists what was set and what is wanted besides (see [`set`] and [`list`]).
///
/// # Errors
/// As they do; nothing was changed then.
pub fn set_and_list(
    settings: &mut Settings,
    short: bool,
    values: &[(String, String)],
    mut wanted: Vec<String>,
) -> Result<Vec<(String, String)>, String> {
    let mut new = *settings;
    set(&mut new, values)?;
    wanted.splice(0..0, values.iter().map(|(name, _)| name.clone()));
    let rows = list(&new, short, &wanted)?;
    *settings = new;
    Ok(rows)
}

/// The two numbers of `sync_threshold`: the first is less than the second, unless that is 0.
fn read_pair(text: &str) -> Result<(u32, u32), String> {
    let number = |word: &str| {
        word.parse::<u32>()
            .ok()
            .filter(|n| i32::try_from(*n).is_ok())
    };
    let numbers: Option<Vec<u32>> = text.split_whitespace().map(number).collect();
    match numbers.as_deref() {
        Some(&[threshold, period]) if period == 0 || threshold < period => Ok((threshold, period)),
        _ => Err(format!(
            "sysctl {PAIR}: \"{text}\" are not two numbers of which the first is less than the \
             second, or the second is 0; write \"3 50\""
        )),
    }
}

fn read(setting: &Setting, text: &str) -> Result<u32, String> {
    let (name, text) = (setting.key, text.trim());
    let number = text.parse::<i64>().ok();
    if setting.boolean {
        // As in the kernel, any number but 0 is "on".
        let is_int = |n: &i64| i32::try_from(*n).is_ok();
        return match (text, number) {
            ("true" | "on" | "yes", _) => Ok(1),
            ("false" | "off" | "no", _) => Ok(0),
            (_, Some(n)) if is_int(&n) => Ok(u32::from(n != 0)),
            _ => Err(format!("sysctl {name}: \"{text}\" is neither 0 nor 1")),
        };
    }
    let (min, max) = keys::range("ipvs", name).unwrap_or((0, keys::MAX_WEIGHT));
    number
        .filter(|n| (min..=max).contains(n))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| format!("sysctl {name}: \"{text}\" is not a number from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, value: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        set(&mut settings, &[(name.into(), value.into())]).map(|()| settings)
    }

    fn refused(name: &str, value: &str) -> String {
        change(name, value).expect_err("a refusal")
    }

    #[test]
    fn all_of_the_kernels_names_are_listed_with_its_defaults() {
        let want = "am_droprate=10 amemthresh=1024 backup_only=0 cache_bypass=0 \
                    conn_reuse_mode=1 conntrack=0 debug_level=0 drop_entry=0 drop_packet=0 \
                    expire_nodest_conn=0 expire_quiescent_template=0 icmp_msgs_burst=50 \
                    icmp_msgs_per_sec=1000 icmp_ratelimit=1000 ignore_tunneled=1 lblc_expiration=86400 \
                    lblcr_expiration=86400 nat_icmp_send=0 pmtu_disc=1 run_estimation=1 \
                    schedule_icmp=0 secure_tcp=0 sloppy_sctp=0 sloppy_tcp=0 snat_reroute=1 \
                    sync_persist_mode=0 sync_ports=1 sync_qlen_max=0 sync_refresh_period=0 \
                    sync_retries=0 sync_sock_size=0 sync_threshold=3 50 sync_version=1";
        let rows = list(&Settings::default(), false, &[]).expect("all");
        let rows: Vec<String> = rows.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(rows.join(" "), want);
    }

    #[test]
    fn a_name_may_carry_the_kernels_path() {
        for name in [
            "drop_entry",
            "net.ipv4.vs.drop_entry",
            "net/ipv4/vs/drop_entry",
        ] {
            assert_eq!(change(name, "3").map(|s| s.drop_entry), Ok(3), "{name}");
        }
        let settings = Settings::default();
        let row = list(&settings, false, &["net.ipv4.vs.sync_threshold".into()]);
        assert_eq!(row, Ok(vec![("sync_threshold".into(), "3 50".into())]));
    }

    #[test]
    fn values_are_refused_as_the_kernel_refuses_them() {
        assert_eq!(
            refused("drop_entry", "4"),
            "sysctl drop_entry: \"4\" is not a number from 0 to 3"
        );
        assert_eq!(
            refused("secure_tcp", "-1"),
            "sysctl secure_tcp: \"-1\" is not a number from 0 to 3"
        );
        assert_eq!(
            refused("am_droprate", "2147483648"),
            "sysctl am_droprate: \"2147483648\" is not a number from 0 to 2147483647"
        );
        assert_eq!(
            refused("sloppy_tcp", "maybe"),
            "sysctl sloppy_tcp: \"maybe\" is neither 0 nor 1"
        );
        assert_eq!(change("sloppy_tcp", "2").map(|s| s.sloppy_tcp), Ok(true));
        assert_eq!(change("pmtu_disc", "off").map(|s| s.pmtu_disc), Ok(false));
    }

    #[test]
    fn an_automatic_defence_shows_whether_it_is_at_work() {
        let settings = change("secure_tcp", "2").expect("a mode");
        let names = ["secure_tcp".to_owned(), "drop_entry".to_owned()];
        for (short, shown) in [(false, "1"), (true, "2")] {
            let rows = list(&settings, short, &names).expect("both");
            assert_eq!((rows[0].1.as_str(), rows[1].1.as_str()), (shown, "0"));
        }
    }

    #[test]
    fn what_cannot_be_changed_says_why_and_takes_what_holds() {
        assert_eq!(
            refused("conntrack", "1"),
            "sysctl conntrack stays 0: balanced packets never pass the kernel's connection tracking"
        );
        assert_eq!(change("conntrack", "0"), Ok(Settings::default()));
    }

    #[test]
    fn the_threshold_is_two_numbers() {
        let pair = |text| change("sync_threshold", text).map(|s| (s.sync.threshold, s.sync.period));
        assert_eq!(pair("3\t50"), Ok((3, 50)));
        assert_eq!(pair(" 0 1 "), Ok((0, 1)));
        assert_eq!(pair("9 0"), Ok((9, 0)));
        for wrong in [
            "",
            "3",
            "3 3",
            "50 3",
            "-1 3",
            "1 2 3",
            "x y",
            "1 4294967295",
        ] {
            let told = refused("sync_threshold", wrong);
            assert!(told.contains("write \"3 50\""), "{told}");
        }
        let settings = change("net.ipv4.vs.sync_threshold", "5 100").expect("two numbers");
        let rows = list(&settings, false, &["sync_threshold".into()]);
        assert_eq!(rows, Ok(vec![("sync_threshold".into(), "5 100".into())]));
        assert!(find("sync_period").is_err());
        let version = change("sync_version", "0").map(|s| s.sync.version);
        assert_eq!(version, Ok(dataplane::sync::wire::Version::V0));
    }

    #[test]
    fn all_or_nothing_and_a_near_name_is_offered() {
        let mut settings = Settings::default();
        let values = [("sloppy_tcp", "1"), ("drop_entyr", "1")];
        let values = values.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(
            set(&mut settings, &values),
            Err(
                "sysctl \"drop_entyr\" is unknown; did you mean \"drop_entry\"? `rvsadm sysctl` \
                 lists all"
                    .into()
            )
        );
        assert_eq!(settings, Settings::default());
        assert_eq!(
            refused("frobnicate", "1"),
            "sysctl \"frobnicate\" is unknown; `rvsadm sysctl` lists all"
        );
    }
}
