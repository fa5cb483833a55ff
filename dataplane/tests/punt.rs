//! Limits of what goes to the kernel: each class has its own.

use std::time::Duration;

use dataplane::packet::{DropReason, PuntClass, Verdict};

mod support;
use support::notation::build;
use support::rig::Rig;

const ARP: &str = "eth 02:04:c0:a8:28:fe > ff:ff:ff:ff:ff:ff type 0x0806 | data 0001080006040001";
const ADVERT: &str = "eth 02:04:c0:a8:28:fe > 01:00:5e:00:00:12 | ip 192.168.40.2 > 224.0.0.18 ttl 255 proto 112 | bytes 20";

#[test]
fn a_flood_of_arp_takes_no_advert_its_place() {
    let (arp, advert) = (build(ARP), build(ADVERT));
    let mut rig = Rig::new();
    rig.change_settings(|s| {
        s.punt_limits[PuntClass::Control as usize] = 100;
        s.punt_limits[PuntClass::Advert as usize] = 100;
    });
    let mut refused = 0;
    for _ in 0..20 {
        rig.now = rig.now + Duration::from_millis(100);
        for _ in 0..1000 {
            let verdict = rig.inject(0, &arp).0;
            refused += u32::from(verdict == Verdict::Drop(DropReason::PuntLimited));
        }
        let verdict = rig.inject(0, &advert).0;
        assert_eq!(verdict, Verdict::Kernel(PuntClass::Advert));
    }
    assert!(refused > 19_000, "{refused} of 20,000");
}
