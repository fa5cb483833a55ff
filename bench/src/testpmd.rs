//! The reference: DPDK's own `dpdk-testpmd` in macswap mode on the same kind of ports.
//!
//! One process for the whole bench, started and stopped by its command line. Its cost is the CPU
//! time of its forwarding thread divided by the packets it reports, so that neither other jobs on
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
    /// `schedstat` of its forwarding thread.
    schedstat: String,
}

impl Testpmd {
    /// Starts it on `core`, with its command line on another core if there is one.
    ///
    /// # Errors
    /// It is not installed, or does not come up; its own words are in the message.
    pub fn start(core: usize, main_core: usize, prefix: &str) -> Result<Testpmd> {
        // Its output would otherwise stay in a buffer until it ends.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "dpdk-testpmd"])
            .args([
                format!("--lcores=0@{main_core},1@{core}"),
                format!("-m{MB}"),
            ])
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
            schedstat: String::new(),
        };
        pmd.read_until("Done")?;
        pmd.schedstat = pmd.find_worker()?;
        Ok(pmd)
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

    /// `rte-worker-1` in 22.11, `dpdk-worker1` later; there is one.
    fn find_worker(&self) -> Result<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        for task in fs::read_dir(&tasks).context("threads of dpdk-testpmd")? {
            let path = task?.path();
            if fs::read_to_string(path.join("comm"))
                .unwrap_or_default()
                .contains("-worker")
            {
                return Ok(path.join("schedstat").to_string_lossy().into_owned());
            }
        }
        bail!("dpdk-testpmd has no worker thread")
    }

    fn cpu_nanos(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.schedstat).context("dpdk-testpmd has ended")?;
        let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
        first.with_context(|| format!("{} reads {text:?}", self.schedstat))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
