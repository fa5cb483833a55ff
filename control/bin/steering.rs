//! Whether the NICs bring packets to the worker that has their connection, or the workers hand
//! them to each other. Decided at start: planned before the ports are set up, and given up if one
//! of them does not do what it was told.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use control::config::{self, Config};
use dataplane::conn::HashKey;
use dataplane::toeplitz::{BUCKETS, KEY_BYTES, Toeplitz};
use dataplane::worker::Share;
use dpdk::port::{Port, RunningPort};

/// How packets come to their worker.
pub enum Steering {
    /// The NICs bring them: TCP and UDP over IPv4. All else is handed over.
    Nics(Arc<Toeplitz>, Box<Share>),
    /// Workers hand them to each other; why, in words.
    Software(String),
}

impl Steering {
    /// What the configuration asks for and these ports can do.
    ///
    /// # Errors
    /// A port that cannot be asked.
    pub fn plan(config: &Config, opened: &[Port], table: &HashKey) -> Result<Steering> {
        let team = config.dpdk.worker_cores.len();
        if team < 2 {
            return Ok(Steering::Software("there is one worker".to_owned()));
        }
        for (wanted, port) in config.ports.iter().zip(opened) {
            let info = port.info()?;
            let name = &wanted.name;
            let obstacle = if !info.takes_rss_key {
                let driver = &info.driver;
                Some(format!("port {name} ({driver}) takes no RSS key of ours"))
            } else if wanted.faces.is_none() {
                Some(format!(
                    "port {name} does not say whom it faces; give faces = \"clients\" or \"servers\""
                ))
            } else if usize::from(info.max_rx_queues) < team {
                let queues = info.max_rx_queues;
                Some(format!("port {name} has no more than {queues} RX queues"))
            } else if wanted.rx_queues != 0 && usize::from(wanted.rx_queues) < team {
                Some(format!(
                    "port {name} is given {} rx_queues",
                    wanted.rx_queues
                ))
            } else {
                None
            };
            if let Some(why) = obstacle {
                return Ok(Steering::Software(why));
            }
        }
        let keys = Toeplitz::of_table(table);
        Ok(Steering::Nics(Arc::new(keys), Box::new(Share::of(0, team))))
    }

    /// The RSS key of a port, if the NICs are to steer.
    pub fn key(&self, port: &config::Port) -> Option<[u8; KEY_BYTES]> {
        match self {
            Steering::Nics(keys, _) => port.faces.map(|facing| keys.key(facing)),
            Steering::Software(_) => None,
        }
    }

    /// Tells a port that was started with its [`Steering::key`] which queue each bucket goes to.
    /// If it does something else, all are steered in software: that is right however a NIC
    /// spreads what it receives.
    pub fn set_up(
        &mut self,
        port: &mut RunningPort,
        wanted: &config::Port,
        queue_of: impl Fn(usize) -> Option<u16>,
    ) {
        let Steering::Nics(_, share) = self else {
            return;
        };
        let mut queues = [0; BUCKETS];
        for (bucket, queue) in (0..).zip(&mut queues) {
            *queue = queue_of(usize::from(share.owner(bucket))).unwrap_or(0);
        }
        let told = self.key(wanted).map(|key| port.steer(&key, &queues));
        if let Some(Err(why)) = told {
            *self = Steering::Software(why.to_string());
        }
    }

    /// The keys by which the NICs steer, if they do.
    pub fn keys(&self) -> Option<&Arc<Toeplitz>> {
        match self {
            Steering::Nics(keys, _) => Some(keys),
            Steering::Software(_) => None,
        }
    }
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Steering::Nics(..) => f.write_str("by the NICs (RSS), IPv6 in software"),
            Steering::Software(why) => write!(f, "in software: {why}"),
        }
    }
}
