//! Words of `rvsadm upgrade`.

use serde::{Deserialize, Serialize};

/// Whether another node is to be master while nothing is forwarded here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandOver {
    /// If the pause is expected to be longer than the peers wait and a standby is in step.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

impl HandOver {
    /// By its name on the command line.
    pub fn from_name(name: &str) -> Option<HandOver> {
        match name {
            "auto" => Some(HandOver::Auto),
            "always" => Some(HandOver::Always),
            "never" => Some(HandOver::Never),
            _ => None,
        }
    }
}
