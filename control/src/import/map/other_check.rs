//! Checkers that need more than a socket: TLS, scripts, files.

use super::Mapper;
use super::check::{Heir, Inherited};
use crate::import::tree::Node;

impl Mapper<'_> {
    pub(super) fn other_check(&mut self, node: &Node, _: &Inherited) -> Vec<Heir> {
        let note = match node.keyword() {
            "SSL_GET" => "HTTPS checks are not supported yet by this version",
            "MISC_CHECK" => "script checks are not supported yet by this version",
            "FILE_CHECK" => "file checks are not supported yet by this version",
            _ => "there is no BFD in RVS; a routing daemon can run it on the twins",
        };
        self.report.lost(node, note);
        Vec::new()
    }
}
