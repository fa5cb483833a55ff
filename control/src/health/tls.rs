//! TLS sessions of checks: `rustls` around the attempt's socket.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use healthcheck::{Failure, Instant};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use crate::pem::{certificates, read, unreadable};

/// How a TLS session is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Server name, if it is not that of the request.
    pub sni: Option<String>,
    /// Whether the certificate has to be good.
    pub verify: bool,
    /// Authorities, if they are not those of the system.
    pub ca_file: Option<PathBuf>,
    /// Who the check is, for servers that ask.
    pub own: Option<Identity>,
}

/// A certificate of ours with its key, in files (PEM).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The certificate, and those between it and its authority.
    pub certificates: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}

impl Tls {
    /// Whether a text is a name that a server can have.
    pub fn is_name(text: &str) -> bool {
        matches!(ServerName::try_from(text), Ok(ServerName::DnsName(_)))
    }

    /// The name of a server at this address that is asked for `host`.
    pub fn name(&self, host: Option<&str>, addr: IpAddr) -> ServerName<'static> {
        // Without the port that a Host field may have.
        let host = host.map(|host| host.split_once(':').map_or(host, |(name, _)| name));
        let named = self
            .sni
            .as_deref()
            .or(host)
            .filter(|name| Tls::is_name(name));
        match named.and_then(|name| ServerName::try_from(name.to_owned()).ok()) {
            Some(name) => name,
            None => ServerName::IpAddress(addr.into()),
        }
    }
}

/// How long what was read of authorities holds: a file that was replaced counts after this.
const FRESH: Duration = Duration::from_secs(60);

type Key = (bool, Option<PathBuf>, Option<Identity>);

/// What sessions have in common, by whom they trust and who they are.
#[derive(Default)]
pub struct Contexts(HashMap<Key, (Instant, Arc<ClientConfig>)>);

impl Contexts {
    /// That of sessions set up like this.
    ///
    /// # Errors
    /// One line: a file cannot be read.
    pub fn get(&mut self, now: Instant, tls: &Tls) -> Result<Arc<ClientConfig>, String> {
        let key = (tls.verify, tls.ca_file.clone(), tls.own.clone());
        if let Some((made, context)) = self.0.get(&key)
            && now.since(*made) < FRESH
        {
            return Ok(Arc::clone(context));
        }
        let context = Arc::new(context(tls)?);
        self.0.insert(key, (now, Arc::clone(&context)));
        Ok(context)
    }
}

fn context(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match tls.verify {
        true => builder.with_root_certificates(roots(tls.ca_file.as_deref())?),
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    let mut context = match &tls.own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let (certificates, key) = own.load()?;
            let made = builder.with_client_auth_cert(certificates, key);
            made.map_err(|e| own.misfit(&e))?
        }
    };
    // A resumed session shows no certificate, and one that has expired is to be noticed.
    context.resumption = Resumption::disabled();
    Ok(context)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        let (taken, _) = roots.add_parsable_certificates(found.certs);
        return match taken {
            0 => {
                Err("this host has no certificate authorities; install them or set ca_file".into())
            }
            _ => Ok(roots),
        };
    };
    for certificate in certificates("ca_file", path)? {
        let added = roots.add(certificate);
        added.map_err(|e| unreadable("ca_file", path, &describe(&e)))?;
    }
    Ok(roots)
}

impl Identity {
    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain = certificates("cert_file", &self.certificates)?;
        let text = read("key_file", &self.key)?;
        let shown = self.key.display();
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
            pem::Error::NoItemsFound => {
                format!("key_file {shown} holds no private key (PEM, not encrypted)")
            }
            e => unreadable("key_file", &self.key, &e),
        })?;
        Ok((chain, key))
    }

    fn misfit(&self, error: &Error) -> String {
        let (cert, key) = (self.certificates.display(), self.key.display());
        let why = match error {
            Error::InconsistentKeys(_) => "they do not belong together".to_owned(),
            other => describe(other),
        };
        format!("cert_file {cert} and key_file {key} cannot be used: {why}")
    }
}

/// What arrived in a session.
pub enum Got {
    /// It is set up now.
    Opened,
    /// So many bytes.
    Bytes(usize),
    /// The peer ended it.
    Closed,
    /// Nothing for now.
    Nothing,
}

/// One session.
pub struct Session {
    connection: ClientConnection,
    opened: bool,
}

impl Session {
    /// A session that has sent nothing yet.
    pub fn new(context: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, Failure> {
        let connection = ClientConnection::new(context, name);
        Ok(Session {
            connection: connection.map_err(|e| Failure::Tls(describe(&e)))?,
            opened: false,
        })
    }

    /// Queues bytes of the conversation.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut writer = self.connection.writer();
        writer
            .write_all(bytes)
            .map_err(|e| Failure::Tls(e.to_string()))
    }

    /// Sends what is queued, as far as the socket takes it.
    pub fn send(&mut self, mut socket: impl Write) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut socket) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes what the socket has.
    pub fn receive(
        &mut self,
        mut socket: impl Read + Write,
        buffer: &mut [u8],
    ) -> Result<Got, Failure> {
        loop {
            if !self.opened && !self.connection.is_handshaking() {
                self.opened = true;
                return Ok(Got::Opened);
            }
            match self.connection.reader().read(buffer) {
                // Not every server says goodbye before it closes the connection.
                Ok(0) => return Ok(Got::Closed),
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(Got::Closed),
                Ok(n) => return Ok(Got::Bytes(n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(Failure::Tls(e.to_string())),
            }
            match self.connection.read_tls(&mut socket) {
                Ok(0) if self.connection.is_handshaking() => {
                    return Err(Failure::Closed("TLS session"));
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Got::Nothing),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(super::attempt::failure(&e)),
            }
            let processed = self.connection.process_new_packets();
            // Also the alert that says why, for the log of the server.
            let sent = self.send(&mut socket);
            processed.map_err(|e| Failure::Tls(describe(&e)))?;
            sent.map_err(|e| super::attempt::failure(&e))?;
        }
    }

    /// Whether the handshake is over.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Says goodbye.
    pub fn close(&mut self, socket: impl Write) {
        self.connection.send_close_notify();
        // Nobody waits for it to arrive.
        let _ = self.send(socket);
    }
}

fn describe(error: &Error) -> String {
    let text = match error {
        Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            CertificateError::UnknownIssuer => "the certificate is from an unknown authority",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another name"
            }
            _ => return error.to_string(),
        },
        Error::InvalidMessage(_) => "the answer is no TLS",
        _ => return error.to_string(),
    };
    text.to_owned()
}

/// Accepts every certificate: the check asks whether the server answers, not who it is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let tls = |sni: Option<&str>| Tls {
            sni: sni.map(str::to_owned),
            ..Tls::default()
        };
        let addr = "192.0.2.1".parse().unwrap();
        let name = |sni, host| tls(sni).name(host, addr).to_str().into_owned();
        assert_eq!(name(Some("a.example"), Some("b.example")), "a.example");
        assert_eq!(name(None, Some("b.example:8443")), "b.example");
        assert_eq!(name(None, Some("192.0.2.7")), "192.0.2.1");
        assert_eq!(name(None, None), "192.0.2.1");
        assert!(Tls::is_name("www.example.org"));
        assert!(!Tls::is_name("192.0.2.1") && !Tls::is_name("a b") && !Tls::is_name(""));
    }

    #[test]
    fn files_are_read_anew_after_a_minute() {
        let mut contexts = Contexts::default();
        let mut at = |seconds: u64| {
            let now = Instant(seconds * 1_000_000_000);
            contexts.get(now, &Tls::default()).unwrap()
        };
        let (first, later, last) = (at(1), at(60), at(61));
        assert!(Arc::ptr_eq(&first, &later));
        assert!(!Arc::ptr_eq(&first, &last));
    }

    #[test]
    fn authorities_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let mut contexts = Contexts::default();
        let mut says = || {
            let tls = Tls {
                verify: true,
                ca_file: Some(path.clone()),
                ..Tls::default()
            };
            contexts.get(Instant(0), &tls).map(drop).unwrap_err()
        };
        let shown = path.display();
        let missing = format!("ca_file {shown} cannot be read: No such file");
        assert!(says().starts_with(&missing), "{}", says());
        std::fs::write(&path, "hello\n").unwrap();
        assert_eq!(
            says(),
            format!("ca_file {shown} holds no certificate (PEM)")
        );
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, broken).unwrap();
        assert!(says().contains("cannot be read"), "{}", says());
    }

    #[test]
    fn certificates_of_ours_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let own = Identity {
            certificates: dir.path().join("own.pem"),
            key: dir.path().join("own.key"),
        };
        let says = || {
            let tls = Tls {
                own: Some(own.clone()),
                ..Tls::default()
            };
            let made = Contexts::default().get(Instant(0), &tls);
            made.map(drop).unwrap_err()
        };
        let missing = |key, path: &Path| format!("{key} {} cannot be read: No", path.display());
        let starts = |with: String| assert!(says().starts_with(&with), "{}", says());
        starts(missing("cert_file", &own.certificates));
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&own.certificates, pem).unwrap();
        starts(missing("key_file", &own.key));
        std::fs::write(&own.key, pem).unwrap();
        let shown = own.key.display();
        starts(format!("key_file {shown} holds no private key"));
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(&own.key, key).unwrap();
        starts(format!(
            "cert_file {} and key_file",
            own.certificates.display()
        ));
    }
}
