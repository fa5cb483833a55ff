//! The request of one URL.

/// Version of the request and how the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0.
    #[default]
    Http10,
    /// HTTP/1.0 with "Connection: close", for servers that keep it open all the same.
    Http10Close,
    /// HTTP/1.1 with "Connection: close".
    Http11,
}

/// One request. Nothing in it may hold a line break; see [`Request::complaint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// Value of the Host field.
    pub host: String,
    /// Which form of request.
    pub version: Version,
}

impl Request {
    /// Puts the three together.
    pub fn new(path: &str, host: &str, version: Version) -> Request {
        Request {
            path: path.into(),
            host: host.into(),
            version,
        }
    }

    /// Why this cannot be sent as a request, if it cannot.
    pub fn complaint(&self) -> Option<String> {
        let bad = |text: &str| text.chars().any(|c| c.is_ascii_control() || c == ' ');
        if !self.path.starts_with('/') {
            return Some(format!("path \"{}\" does not begin with /", self.path));
        }
        [&self.path, &self.host]
            .into_iter()
            .find(|text| bad(text))
            .map(|text| {
                format!(
                    "\"{}\" holds a blank or a control character",
                    text.escape_debug()
                )
            })
    }

    /// As sent.
    pub fn bytes(&self) -> Vec<u8> {
        let Request {
            path,
            host,
            version,
        } = self;
        let (number, close) = match version {
            Version::Http10 => ("1.0", ""),
            Version::Http10Close => ("1.0", "Connection: close\r\n"),
            Version::Http11 => ("1.1", "Connection: close\r\n"),
        };
        let head =
            format!("GET {path} HTTP/{number}\r\nUser-Agent: rvs\r\n{close}Host: {host}\r\n\r\n");
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        let bytes = |version| Request::new("/x?y", "[fd00::1]:80", version).bytes();
        let text = "GET /x?y HTTP/1.1\r\nUser-Agent: rvs\r\nConnection: close\r\n\
                    Host: [fd00::1]:80\r\n\r\n";
        assert_eq!(bytes(Version::Http11), text.as_bytes());
        let text = text.replace("1.1", "1.0");
        assert_eq!(bytes(Version::Http10Close), text.as_bytes());
        let text = text.replace("Connection: close\r\n", "");
        assert_eq!(bytes(Version::Http10), text.as_bytes());
    }

    #[test]
    fn nothing_is_smuggled_in() {
        let complaint = |path: &str| Request::new(path, "h", Version::Http10).complaint();
        assert!(complaint("x").is_some());
        assert!(complaint("/ HTTP/1.0\r\nX: y").is_some());
        assert_eq!(complaint("/ok"), None);
    }
}
