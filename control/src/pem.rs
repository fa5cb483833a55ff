//! Certificates and keys in files that keys of the configuration name.

use std::fmt::Display;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// One line for a file that is of no use.
pub fn unreadable(key: &str, path: &Path, why: &dyn Display) -> String {
    format!("{key} {} cannot be read: {why}", path.display())
}

/// Reads a file whole first: a missing one says so in the system's words.
///
/// # Errors
/// It cannot be read.
pub fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| unreadable(key, path, &e))
}

/// The certificates of a file, at least one.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(key, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|e| unreadable(key, path, &e))?;
    match all.is_empty() {
        true => Err(format!(
            "{key} {} holds no certificate (PEM)",
            path.display()
        )),
        false => Ok(all),
    }
}
