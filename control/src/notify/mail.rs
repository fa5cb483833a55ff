//! Mails, sent by a thread of their own: a mail server that hangs delays nobody.

use std::net::ToSocketAddrs;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Message, SmtpTransport, Transport};

use crate::config::notify::{Login, Mail, MailTls};
use crate::pem;

/// Mails that wait; what comes then is dropped.
const QUEUE: usize = 100;
/// Waits before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

struct Letter {
    mail: Mail,
    subject: String,
    body: String,
}

enum Job {
    /// Tell what would be in the way of a mail: the file is new.
    Look(Mail),
    Send(Letter),
}

/// The thread.
pub struct Mailer {
    jobs: Option<Sender<Job>>,
    dropped: u64,
}

impl Mailer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no room for one.
    pub fn start() -> std::io::Result<Mailer> {
        let (jobs, queue) = bounded(QUEUE);
        std::thread::Builder::new()
            .name("rvs-mail".to_owned())
            .spawn(move || Post::default().run(&queue))?;
        Ok(Mailer {
            jobs: Some(jobs),
            dropped: 0,
        })
    }

    /// Has a line logged for each thing that would be in the way of a mail.
    pub fn look(&mut self, mail: &Mail) {
        self.give(Job::Look(mail.clone()));
    }

    /// Sends a mail, some time.
    pub fn send(&mut self, mail: &Mail, subject: String, body: String) {
        self.give(Job::Send(Letter {
            mail: mail.clone(),
            subject,
            body,
        }));
    }

    fn give(&mut self, job: Job) {
        let Some(jobs) = &self.jobs else {
            return;
        };
        match jobs.try_send(job) {
            Ok(()) if self.dropped > 0 => {
                tracing::info!("{} mails were dropped", self.dropped);
                self.dropped = 0;
            }
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                if self.dropped == 0 {
                    tracing::warn!("{QUEUE} mails wait to be sent; new ones are dropped");
                }
                self.dropped += 1;
            }
            Err(TrySendError::Disconnected(_)) => self.jobs = None,
        }
    }
}

/// What the thread knows: whether the last mail could be sent.
#[derive(Default)]
struct Post {
    lost: u64,
}

impl Post {
    fn run(&mut self, queue: &Receiver<Job>) {
        for job in queue {
            let letter = match job {
                Job::Send(letter) => letter,
                Job::Look(mail) => {
                    for obstacle in obstacles(&mail) {
                        tracing::warn!(event = "mail", "{obstacle}; no mail can be sent");
                    }
                    continue;
                }
            };
            let (host, port) = (&letter.mail.host, letter.mail.port);
            match self.deliver(&letter) {
                Ok(()) if self.lost > 0 => {
                    tracing::info!(
                        "mail server {host}:{port} takes mails again; {} were lost",
                        self.lost
                    );
                    self.lost = 0;
                }
                Ok(()) => {}
                Err(why) => {
                    if self.lost == 0 {
                        tracing::warn!(reason = why, "mail server {host}:{port} takes no mail");
                    }
                    self.lost += 1;
                }
            }
        }
    }

    fn deliver(&self, letter: &Letter) -> Result<(), String> {
        // A server that has taken nothing of late gets one chance per mail.
        let pauses: &[Duration] = if self.lost > 0 { &[] } else { &PAUSES };
        let mut pauses = pauses.iter();
        loop {
            match try_once(letter) {
                Ok(()) => return Ok(()),
                Err(why) => match pauses.next() {
                    Some(pause) => std::thread::sleep(*pause),
                    None => return Err(why),
                },
            }
        }
    }
}

/// This host's name.
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    match name.is_empty() {
        true => "localhost".into(),
        false => name.into_owned(),
    }
}

fn message(letter: &Letter) -> Result<Message, String> {
    let mail = &letter.mail;
    let host = host_name();
    let from = mail.from.clone().unwrap_or_else(|| format!("rvsd@{host}"));
    let mailbox = |text: &str| -> Result<Mailbox, String> {
        let address = text.parse().map_err(|e| format!("address {text}: {e}"))?;
        Ok(Mailbox::new(None, address))
    };
    let router = mail.router_id.as_deref().unwrap_or(&host);
    let mut builder = Message::builder()
        .from(mailbox(&from)?)
        .subject(format!("[{router}] {}", letter.subject));
    for to in &mail.to {
        builder = builder.to(mailbox(to)?);
    }
    builder.body(letter.body.clone()).map_err(|e| e.to_string())
}

/// What is in the way of every mail before a server is asked, a line each.
fn obstacles(mail: &Mail) -> Vec<String> {
    let login = mail
        .login
        .as_ref()
        .map_or(Ok(()), |login| credentials(login).map(drop));
    [address(mail), tls(mail).map(drop), login]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Whether the server's name has an address.
fn address(mail: &Mail) -> Result<(), String> {
    let host = &mail.host;
    let unknown = |why: &dyn std::fmt::Display| {
        format!(
            "mail server {host} has no address: {why}; correct server in [alert.smtp], or the resolver of this host"
        )
    };
    // The code in front of the words tells an operator nothing.
    let mut found = (host.as_str(), mail.port).to_socket_addrs().map_err(|e| {
        let text = e.to_string();
        unknown(&text.rsplit(": ").next().unwrap_or(&text))
    })?;
    found
        .next()
        .map(drop)
        .ok_or_else(|| unknown(&"the answer is empty"))
}

fn try_once(letter: &Letter) -> Result<(), String> {
    let mail = &letter.mail;
    let message = message(letter)?;
    let helo = mail.helo_name.clone().unwrap_or_else(host_name);
    let mut transport = SmtpTransport::builder_dangerous(&mail.host)
        .port(mail.port)
        .hello_name(ClientId::Domain(helo))
        .timeout(Some(mail.timeout))
        .tls(tls(mail)?);
    if let Some(login) = &mail.login {
        transport = transport.credentials(credentials(login)?);
    }
    let transport = transport.build();
    let sent = transport.send(&message).map(drop);
    sent.map_err(|e| address(mail).err().unwrap_or_else(|| chain(&e)))
}

/// How the session is protected. Authorities are read anew: they may have been replaced.
fn tls(mail: &Mail) -> Result<Tls, String> {
    if mail.tls == MailTls::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(mail.host.clone());
    if let Some(file) = &mail.ca_file {
        parameters = parameters.certificate_store(CertificateStore::None);
        for authority in pem::certificates("ca_file", file)? {
            let authority = Certificate::from_der(authority.to_vec())
                .map_err(|e| pem::unreadable("ca_file", file, &chain(&e)))?;
            parameters = parameters.add_root_certificate(authority);
        }
    }
    let parameters = parameters.build_rustls().map_err(|e| chain(&e))?;
    Ok(match mail.tls {
        MailTls::Implicit => Tls::Wrapper(parameters),
        _ => Tls::Required(parameters),
    })
}

fn credentials(login: &Login) -> Result<Credentials, String> {
    let file = login.password_file.display();
    let unreadable = |e| format!("password_file {file} cannot be read: {e}");
    let text = std::fs::read_to_string(&login.password_file).map_err(unreadable)?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(Credentials::new(
            login.username.clone(),
            password.to_owned(),
        )),
        _ => Err(format!(
            "password_file {file} is empty; write the password into it"
        )),
    }
}

/// An error with what caused it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    fn letter(port: u16) -> Letter {
        Letter {
            mail: Mail {
                to: vec!["noc@example.org".into(), "root@example.org".into()],
                from: Some("lb@example.org".into()),
                host: "127.0.0.1".into(),
                port,
                tls: MailTls::None,
                ca_file: None,
                login: None,
                helo_name: Some("lb.example.org".into()),
                timeout: Duration::from_secs(20),
                router_id: Some("lb1".into()),
                vrrp: true,
                checker: true,
                faults: true,
            },
            subject: "VRRP Instance VI_1 - Entering MASTER state".into(),
            body: "Virtual router VI_1 is MASTER now.\n".into(),
        }
    }

    #[test]
    fn a_mail_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"220 mail ready\r\n").unwrap();
            let (mut heard, mut in_data) = (Vec::new(), false);
            while let Some(Ok(line)) = lines.next() {
                let answer = match line.as_str() {
                    "." => {
                        in_data = false;
                        "250 taken"
                    }
                    _ if in_data => "",
                    "DATA" => {
                        in_data = true;
                        "354 go on"
                    }
                    "QUIT" => "221 bye",
                    _ => "250 ok",
                };
                heard.push(line);
                if !answer.is_empty() {
                    stream
                        .write_all(format!("{answer}\r\n").as_bytes())
                        .unwrap();
                }
            }
            heard
        });
        try_once(&letter(port)).unwrap();
        let heard = server.join().unwrap();
        for line in [
            "EHLO lb.example.org",
            "MAIL FROM:<lb@example.org>",
            "RCPT TO:<noc@example.org>",
            "RCPT TO:<root@example.org>",
            "Subject: [lb1] VRRP Instance VI_1 - Entering MASTER state",
            "Virtual router VI_1 is MASTER now.",
        ] {
            assert!(
                heard.iter().any(|heard| heard == line),
                "{line}: {heard:#?}"
            );
        }
    }

    #[test]
    fn what_a_session_needs_is_asked_for_in_one_clear_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut mail = letter(25).mail;
        mail.tls = MailTls::StartTls;
        mail.ca_file = Some("/nowhere/ca.pem".into());
        let why = tls(&mail).unwrap_err();
        assert!(
            why.starts_with("ca_file /nowhere/ca.pem cannot be read: No such"),
            "{why}"
        );
        mail.ca_file = Some(file("ca.pem", "no certificate"));
        let why = tls(&mail).unwrap_err();
        assert!(why.ends_with("ca.pem holds no certificate (PEM)"), "{why}");
        let login = |password_file| Login {
            username: "lb".into(),
            password_file,
        };
        let why = credentials(&login("/nowhere/password".into())).unwrap_err();
        assert!(
            why.contains("/nowhere/password cannot be read: No such"),
            "{why}"
        );
        let why = credentials(&login(file("empty", "\n"))).unwrap_err();
        assert!(
            why.ends_with("is empty; write the password into it"),
            "{why}"
        );
        assert!(credentials(&login(file("password", "s3cret\n"))).is_ok());
    }

    #[test]
    fn a_server_without_an_address_and_files_that_are_missing_are_a_line_each() {
        let mut mail = letter(25).mail;
        assert!(obstacles(&mail).is_empty());
        // The name is reserved for what does not exist (RFC 6761, 6.4).
        mail.host = "mail.invalid".into();
        mail.tls = MailTls::StartTls;
        mail.ca_file = Some("/nowhere/ca.pem".into());
        mail.login = Some(Login {
            username: "lb".into(),
            password_file: "/nowhere/password".into(),
        });
        let found = obstacles(&mail);
        let starts = [
            "mail server mail.invalid has no address: ",
            "ca_file /nowhere/ca.pem cannot be read: No such file",
            "password_file /nowhere/password cannot be read: No such file",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (line, start) in found.iter().zip(starts) {
            assert!(line.starts_with(start) && !line.contains('\n'), "{line}");
        }
        assert!(
            found[0].contains("; correct server in [alert.smtp]"),
            "{found:#?}"
        );
        let mut letter = letter(25);
        letter.mail.host = mail.host;
        assert_eq!(try_once(&letter).unwrap_err(), found[0]);
    }

    #[test]
    fn no_server_is_one_clear_line() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let why = try_once(&letter(port)).unwrap_err();
        assert!(
            why.to_lowercase().contains("refused") && !why.contains('\n'),
            "{why}"
        );
    }
}
