//! Where something was written.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a file. Displays as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why a file cannot be imported at all. Displays as one line, with the place if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where, if it is about a line.
    pub place: Option<Place>,
    /// What is wrong; what to do.
    pub text: String,
}

impl Refusal {
    /// About a line.
    pub fn at(place: &Place, text: impl Into<String>) -> Refusal {
        Refusal {
            place: Some(place.clone()),
            text: text.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Refusal {}
