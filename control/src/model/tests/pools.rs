//! Servers as the pool of their service has them, drains, the sorry server.

use dataplane::service::Withdrawal;

use super::*;
use crate::health::Sorry;
use crate::model::Place;

const ONE: &str = "192.168.0.1:80";
const SORRY: &str = "192.168.0.9:80";

fn failed(leave: bool) -> Place {
    Place::Failed { leave }
}

fn weights_of(service: &VirtualService) -> Vec<(u8, u32)> {
    let destinations = service.destinations.iter();
    let last = |d: &dataplane::service::Destination| d.endpoint.addr.octets()[15];
    destinations.map(|d| (last(d), d.weight)).collect()
}

fn sorry() -> Sorry {
    Sorry {
        server: rs(SORRY),
        spec: nat(1),
        inhibit: false,
    }
}

impl Bench {
    fn place(&mut self, server: &str, place: Place, delta: i64) {
        self.model.place(http(), rs(server), place, delta).unwrap();
    }

    fn set_sorry(&mut self, sorry: Option<&Sorry>) {
        let counters = self.counters.clone();
        self.model
            .set_sorry(self.now, http(), sorry, &counters)
            .unwrap();
    }

    fn drain(&mut self, server: &str, state: OperatorState) {
        self.live(Change::SetState(http(), rs(server), state))
            .unwrap();
    }
}

#[test]
fn an_edit_says_nothing_about_health() {
    let mut b = with_http();
    b.add(ONE).unwrap();
    b.place(ONE, failed(false), 0);
    assert_eq!(weights_of(&b.service()), [(1, 0)]);
    let edit = Change::EditServer(http(), rs(ONE), nat(7), OperatorState::Up);
    b.live(edit).unwrap();
    assert_eq!(weights_of(&b.service()), [(1, 0)], "still down");
    b.place(ONE, Place::Serves, 0);
    assert_eq!(weights_of(&b.service()), [(1, 7)]);
    b.place(ONE, Place::Serves, 0);
    assert!(b.model.take_updates().is_empty());
    b.place(ONE, Place::Serves, -3);
    assert_eq!(weights_of(&b.service()), [(1, 4)]);
}

#[test]
fn a_failed_server_is_withdrawn_and_a_removed_one_is_nowhere() {
    let mut b = with_http();
    b.add(ONE).unwrap();
    b.add("192.168.0.2:80").unwrap();
    let id = b.service().destinations[1].id;
    b.place(ONE, failed(true), 0);
    let service = b.service();
    assert_eq!(weights_of(&service), [(2, 1)]);
    let (dest, how) = &service.withdrawn[0];
    assert_eq!((dest.id, *how), (id, Withdrawal::Failed));
    assert_eq!(b.list()[0].servers.len(), 2, "it is listed");
    b.place(ONE, Place::Removed, 0);
    let service = b.service();
    assert_eq!(weights_of(&service), [(2, 1)]);
    assert!(service.withdrawn.is_empty());
    assert_eq!(b.list()[0].servers.len(), 1, "it is not listed");
    let roles = |b: &Bench| b.roles(ONE) & dataplane::roles::LIVE;
    assert_eq!(roles(&b), 0);
    // The file and the operator still know it.
    assert_eq!(b.model.running().services[&http()].servers.len(), 2);
    assert_eq!(b.add(ONE), Err(ErrorKind::ServerExists));
    b.place(ONE, Place::Serves, 0);
    let service = b.service();
    assert_eq!(service.destinations[1].id, id, "in its old place");
    assert_ne!(roles(&b), 0);
}

#[test]
fn no_check_brings_a_drained_server_back() {
    let mut b = with_http();
    b.add(ONE).unwrap();
    for how in ["drain", "weight 0"] {
        match how {
            "drain" => b.drain(ONE, OperatorState::Drain),
            _ => {
                let edit = Change::EditServer(http(), rs(ONE), nat(0), OperatorState::Up);
                b.live(edit).unwrap();
            }
        }
        b.place(ONE, failed(true), 0);
        b.place(ONE, Place::Serves, 50);
        assert_eq!(weights_of(&b.service()), [(1, 0)], "{how}");
    }
    let edit = Change::EditServer(http(), rs(ONE), nat(2), OperatorState::Up);
    b.live(edit).unwrap();
    assert_eq!(weights_of(&b.service()), [(1, 52)]);
}

#[test]
fn the_end_of_a_drain_ends_connections_until_the_server_is_back() {
    let mut b = with_http();
    b.add(ONE).unwrap();
    b.drain(ONE, OperatorState::Drain);
    assert!(b.service().withdrawn.is_empty(), "its connections go on");
    b.model.end_connections(http(), rs(ONE), true).unwrap();
    assert_eq!(b.service().withdrawn[0].1, Withdrawal::Over);
    b.drain(ONE, OperatorState::Up);
    assert_eq!(weights_of(&b.service()), [(1, 1)]);
}

#[test]
fn a_sorry_server_is_the_pools_not_the_operators() {
    let mut b = with_http();
    b.add(ONE).unwrap();
    b.set_sorry(Some(&sorry()));
    assert_eq!(weights_of(&b.service()), [(1, 1)], "it is not needed");
    b.model.place_sorry(http(), Place::Serves);
    b.place(ONE, Place::Rests { leave: true }, 0);
    let service = b.service();
    assert_eq!(weights_of(&service), [(9, 1)]);
    assert_eq!(service.withdrawn.len(), 1);
    assert_eq!(b.list()[0].servers.len(), 2);
    assert_eq!(b.model.counts(), (1, 1));
    assert_eq!(b.model.running().services[&http()].servers.len(), 1);
    assert_eq!(b.add(SORRY), Err(ErrorKind::ServerExists));
    let edit = Change::EditServer(http(), rs(SORRY), nat(5), OperatorState::Up);
    assert_eq!(b.live(edit), Err(ErrorKind::NoServer));
    let delete = Change::DeleteServer(http(), rs(SORRY));
    assert_eq!(b.live(delete), Err(ErrorKind::NoServer));
    b.model.place_sorry(http(), Place::Rests { leave: true });
    b.place(ONE, Place::Serves, 0);
    assert_eq!(weights_of(&b.service()), [(1, 1)]);
    b.set_sorry(None);
    let service = b.service();
    assert!(service.withdrawn.is_empty());
    b.add(SORRY).unwrap();
}

#[test]
fn the_file_may_make_a_server_of_the_sorry_server() {
    let mut b = with_http();
    b.set_sorry(Some(&sorry()));
    b.model.place_sorry(http(), Place::Serves);
    let add = Change::AddServer(http(), rs(SORRY), nat(3), OperatorState::Up);
    b.by(Author::File, add).unwrap();
    assert_eq!(weights_of(&b.service()), [(9, 3)]);
    let taken = b.model.set_sorry(START, http(), Some(&sorry()), &[]);
    assert_eq!(taken.map_err(|r| r.kind), Err(ErrorKind::ServerExists));
}
