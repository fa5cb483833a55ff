//! `lvs_sync_daemon INTERFACE INSTANCE [id N] [maxlen N] [port N] [ttl N] [group ADDRESS]`.

use super::Mapper;
use crate::import::document::{Table, Value};
use crate::import::tree::Node;

impl Mapper<'_> {
    /// Connections are synchronised as the instance says: master while it is. `nodes` are those
    /// of the top level.
    pub(super) fn sync_daemon(&mut self, node: &Node, nodes: &[Node]) {
        let (Some(interface), Some(instance)) = (node.arg(0), node.arg(1)) else {
            let note = "it needs an interface and a vrrp_instance";
            self.report.lost(node, note);
            return;
        };
        let mut sync = Table::single("sync", "global_defs: lvs_sync_daemon");
        self.interfaces.insert(interface.to_owned());
        let role = format!("vrrp:{instance}");
        self.put(&mut sync, "role", Value::Text(role), node);
        self.put(&mut sync, "interface", Value::text(interface), node);
        let mut at = 2;
        while let Some(word) = node.arg(at) {
            let name = match word {
                "id" => Some(("syncid", 0, 255)),
                "maxlen" => Some(("maxlen", 1, 65_507)),
                "port" => Some(("port", 1, 65_535)),
                "ttl" => Some(("ttl", 1, 255)),
                _ => None,
            };
            match (name, node.arg(at + 1)) {
                (Some((name, least, most)), Some(_)) => {
                    if let Some(number) = self.number_at(node, at + 1, least, most) {
                        self.put(&mut sync, name, Value::Integer(number), node);
                    }
                }
                (None, Some(group)) if word == "group" => {
                    self.put(&mut sync, "group", Value::text(group), node);
                }
                _ => {
                    let note =
                        format!("\"{word}\" is none of id, maxlen, port, ttl, group with a value");
                    self.report.lost(node, note);
                }
            }
            at += 2;
        }
        if !sync.has("syncid") {
            // Without an id keepalived takes the number of the router.
            let is_it = |n: &&Node| n.keyword() == "vrrp_instance" && n.arg(0) == Some(instance);
            let router = nodes.iter().find(is_it);
            let vrid = router
                .and_then(|r| {
                    r.children
                        .iter()
                        .find(|c| c.keyword() == "virtual_router_id")
                })
                .and_then(|id| id.arg(0)?.parse().ok());
            match vrid {
                Some(vrid) => sync.add("syncid", Value::Integer(vrid)),
                None => {
                    let note =
                        format!("there is no vrrp_instance {instance} with a virtual_router_id");
                    self.report.lost(node, note);
                }
            }
        }
        self.document.tables.push(sync);
    }
}
