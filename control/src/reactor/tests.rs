//! The real loop on a real socket, with fake workers on a thread of their own.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant as WallClock;

use dataplane::command::Command;

use super::*;
use crate::api::{self, ErrorKind, FrameDecoder, Request, Response};
use crate::config;
use crate::fake::FakeWorker;
use crate::host::FixedHost;
use crate::recovery::rules::Kept;
use crate::server::{BindError, Limits};
use crate::state::{Parts, Version};
use crate::status::PortHandle;
use crate::workers::Workers;

mod capture;
mod changes;
mod clients;
mod reload;
mod rig;

use rig::{Bench, FILE, PATIENCE, Rig, add, add_server, ip, key, ok, refused, text};
