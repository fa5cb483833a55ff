//! `rvsadm stats`: totals and rates of everything as the kernel's `/proc/net/ip_vs_stats` and
//! `ip_vs_stats_percpu` have them, in hexadecimal.

use std::io::{self, Write};

use crate::api::Stats;

fn row(stats: &Stats) -> String {
    format!(
        "{:8X} {:8X} {:8X} {:16X} {:16X}",
        stats.conns, stats.in_pkts, stats.out_pkts, stats.in_bytes, stats.out_bytes
    )
}

/// `/proc/net/ip_vs_stats`.
pub fn print(out: &mut dyn Write, total: &Stats, rates: &Stats) -> io::Result<()> {
    writeln!(
        out,
        "   Total Incoming Outgoing         Incoming         Outgoing"
    )?;
    writeln!(
        out,
        "   Conns  Packets  Packets            Bytes            Bytes"
    )?;
    writeln!(out, "{}", row(total))?;
    writeln!(out)?;
    writeln!(
        out,
        " Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s"
    )?;
    writeln!(out, "{}", row(rates))
}

/// `/proc/net/ip_vs_stats_percpu`: a worker stands where the kernel has a CPU.
pub fn print_workers(
    out: &mut dyn Write,
    total: &Stats,
    rates: &Stats,
    workers: &[Stats],
) -> io::Result<()> {
    writeln!(
        out,
        "       Total Incoming Outgoing         Incoming         Outgoing"
    )?;
    writeln!(
        out,
        "CPU    Conns  Packets  Packets            Bytes            Bytes"
    )?;
    for (i, worker) in workers.iter().enumerate() {
        writeln!(out, "{i:3X} {}", row(worker))?;
    }
    writeln!(out, "  ~ {}", row(total))?;
    writeln!(out)?;
    writeln!(
        out,
        "     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s"
    )?;
    writeln!(out, "    {}", row(rates))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stats(n: [u64; 5]) -> Stats {
        Stats {
            conns: n[0],
            in_pkts: n[1],
            out_pkts: n[2],
            in_bytes: n[3],
            out_bytes: n[4],
        }
    }

    const TOTAL: Stats = stats([0x134, 0x5f1, 0x485, 0x13e47, 0xff28]);
    const RATES: Stats = stats([2, 8, 6, 0x1b5, 0x15b]);

    /// What a 6.1 kernel printed.
    #[test]
    fn as_the_kernel_has_it() {
        let mut out = Vec::new();
        print(&mut out, &TOTAL, &RATES).expect("a vector takes every write");
        let want = "   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
     134      5F1      485            13E47             FF28

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       2        8        6              1B5              15B
";
        assert_eq!(String::from_utf8(out).expect("text"), want);
    }

    #[test]
    fn workers_stand_where_the_kernel_has_cpus() {
        let workers = [
            stats([0xa3, 0x35d, 0x291, 0xb3af, 0x907e]),
            stats([0x91, 0x294, 0x1f4, 0x8a98, 0x6eaa]),
        ];
        let mut out = Vec::new();
        print_workers(&mut out, &TOTAL, &RATES, &workers).expect("a vector takes every write");
        let want = "       Total Incoming Outgoing         Incoming         Outgoing
CPU    Conns  Packets  Packets            Bytes            Bytes
  0       A3      35D      291             B3AF             907E
  1       91      294      1F4             8A98             6EAA
  ~      134      5F1      485            13E47             FF28

     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
           2        8        6              1B5              15B
";
        assert_eq!(String::from_utf8(out).expect("text"), want);
    }
}
