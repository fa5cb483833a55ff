//! The reference: DPDK's own `dpdk-testpmd` in macswap mode on the same kind of ports.
//!
//! One process for the whole bench, started and stopped by its command line. Its cost is the CPU
//! time of its forwarding threads divided by the packets it reports, so that neither other jobs on
//! the core nor its start count.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// MiB of hugepages it gets.
pub const MB: u32 = 96;

/// A running testpmd that does not forward yet.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// `schedstat` of its forwarding threads.
    schedstats: Vec<String>,
}

impl Testpmd {
    /// Starts it on `cores`, with a queue of each port for each, and its command line on
    /// `main_core`, which may be one of them: there it only waits.
    ///
    /// # Errors
    /// It is not installed, or does not come up; its own words are in the message.
    pub fn start(cores: &[usize], main_core: usize, prefix: &str) -> Result<Testpmd> {
        let lcores = cores
            .iter()
            .zip(1..)
            .map(|(core, n)| format!(",{n}@{core}"));
        let lcores: String = lcores.collect();
        let count = cores.len();
        // Its output would otherwise stay in a buffer until it ends.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "dpdk-testpmd"])
            .args([format!("--lcores=0@{main_core}{lcores}"), format!("-m{MB}")])
            .args([
                "--main-lcore=0",
                "--in-memory",
                "--iova-mode=va",
                "--no-pci",
            ])
            .args(["--no-telemetry", "--vdev=net_null0,size=60"])
            .args([
                "--vdev=net_null1,size=60,no-rx=1",
                &format!("--file-prefix={prefix}"),
            ])
            .args([
                "--",
                "-i",
                "--forward-mode=macswap",
                "--total-num-mbufs=8192",
            ])
            .args(["--no-lsc-interrupt"])
            .args([
                format!("--nb-cores={count}"),
                format!("--rxq={count}"),
                format!("--txq={count}"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("dpdk-testpmd cannot be started; Debian has it in the package dpdk-dev")?;
        let input = child.stdin.take().context("stdin of dpdk-testpmd")?;
        let output = BufReader::new(child.stdout.take().context("stdout of dpdk-testpmd")?);
        let mut pmd = Testpmd {
            child,
            input,
            output,
            schedstats: Vec::new(),
        };
        pmd.read_until("Done")?;
        pmd.schedstats = pmd.find_workers()?;
        ensure!(
            pmd.schedstats.len() == count,
            "dpdk-testpmd has {} workers, not {count}",
            pmd.schedstats.len()
        );
        Ok(pmd)
    }

    /// Forwards from now on by these of its cores only, counted from 1.
    ///
    /// # Errors
    /// It has ended.
    pub fn use_cores(&mut self, cores: &[usize]) -> Result<()> {
        let list: Vec<String> = cores.iter().map(usize::to_string).collect();
        self.say(&format!("set corelist {}", list.join(",")))
    }

    /// Forwards for about this long and returns the CPU time per packet, nanoseconds.
    ///
    /// # Errors
    /// It has ended, or says something unforeseen.
    pub fn run(&mut self, wall: Duration) -> Result<f64> {
        let before = self.cpu_nanos()?;
        self.say("start")?;
        thread::sleep(wall);
        self.say("stop")?;
        let lines = self.read_until("Done.")?;
        let after = self.cpu_nanos()?;
        // Of all ports together.
        let packets = lines
            .iter()
            .rev()
            .find_map(|line| line.trim().strip_prefix("TX-packets:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .context("dpdk-testpmd printed no statistics")?;
        ensure!(packets > 0, "dpdk-testpmd forwarded nothing");
        Ok((after - before) as f64 / packets as f64)
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").context("dpdk-testpmd has ended")
    }

    /// Reads up to the line `end`.
    fn read_until(&mut self, end: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap_or(0) == 0 {
                let mut said = String::new();
                if let Some(mut errors) = self.child.stderr.take() {
                    let _ = std::io::Read::read_to_string(&mut errors, &mut said);
                }
                bail!("dpdk-testpmd ended: {}", said.trim());
            }
            let done = line.trim() == end;
            lines.push(line);
            if done {
                return Ok(lines);
            }
        }
    }

    /// `rte-worker-1` in 22.11, `dpdk-worker1` later.
    fn find_workers(&self) -> Result<Vec<String>> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut found = Vec::new();
        for task in fs::read_dir(&tasks).context("threads of dpdk-testpmd")? {
            let path = task?.path();
            if fs::read_to_string(path.join("comm"))
                .unwrap_or_default()
                .contains("-worker")
            {
                found.push(path.join("schedstat").to_string_lossy().into_owned());
            }
        }
        Ok(found)
    }

    /// CPU time of all its workers.
    fn cpu_nanos(&self) -> Result<u64> {
        let mut sum = 0;
        for path in &self.schedstats {
            let text = fs::read_to_string(path).context("dpdk-testpmd has ended")?;
            let first = text.split_whitespace().next();
            let nanos: Option<u64> = first.and_then(|n| n.parse().ok());
            sum += nanos.with_context(|| format!("{path} reads {text:?}"))?;
        }
        Ok(sum)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
