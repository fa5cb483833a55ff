//! Named pipes with keepalived's lines.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};

/// A pipe that somebody may read from.
pub struct Fifo {
    path: PathBuf,
    file: File,
    /// We made it and take it away again.
    is_ours: bool,
    lost: u64,
}

impl Fifo {
    /// Opens the pipe, and makes it if there is none. It is kept open for reading, too, so that
    /// nobody has to wait for a reader.
    ///
    /// # Errors
    /// One line.
    pub fn open(path: &Path, mode: u32) -> Result<Fifo, String> {
        let shown = path.display();
        let failed = |e: io::Error| format!("pipe {shown} cannot be opened: {e}");
        let is_ours = match path.symlink_metadata() {
            Ok(meta) if meta.file_type().is_fifo() => false,
            Ok(_) => return Err(format!("{shown} is there and no pipe; remove it")),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let mode = Mode::from_raw_mode(mode);
                rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)
                    .map_err(|e| failed(e.into()))?;
                true
            }
            Err(e) => return Err(failed(e)),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(failed)?;
        Ok(Fifo {
            path: path.to_owned(),
            file,
            is_ours,
            lost: 0,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line; a full pipe loses it. Lines are shorter than PIPE_BUF, so each is whole.
    pub fn tell(&mut self, line: &str) {
        let (shown, line) = (self.path.display(), format!("{line}\n"));
        match self.file.write(line.as_bytes()) {
            Ok(_) if self.lost > 0 => {
                tracing::info!("pipe {shown} is read again; {} events were lost", self.lost);
                self.lost = 0;
            }
            Ok(_) => {}
            Err(e) => {
                if self.lost == 0 {
                    let why = match e.kind() {
                        ErrorKind::WouldBlock => "it is full; does anybody read it?".to_owned(),
                        _ => e.to_string(),
                    };
                    tracing::warn!(reason = why, "pipe {shown} loses events");
                }
                self.lost += 1;
            }
        }
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        if self.is_ours {
            // Nothing can be done about a failure while ending.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_wait_for_a_reader_and_a_full_pipe_loses_whole_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut fifo = Fifo::open(&path, 0o600).unwrap();
        fifo.tell("INSTANCE \"VI_1\" MASTER 100");
        let mut reader = File::open(&path).unwrap();
        let mut buffer = [0; 200_000];
        let n = reader.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"INSTANCE \"VI_1\" MASTER 100\n");
        let line = "x".repeat(99);
        while fifo.lost < 10 {
            fifo.tell(&line);
        }
        let n = reader.read(&mut buffer).unwrap();
        assert!(n > 0 && n % 100 == 0, "{n} bytes");
        fifo.tell("again");
        assert_eq!(fifo.lost, 0);
        drop(fifo);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_pipe_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        let why = Fifo::open(&path, 0o600).map(drop).unwrap_err();
        assert!(why.ends_with("is there and no pipe; remove it"), "{why}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
