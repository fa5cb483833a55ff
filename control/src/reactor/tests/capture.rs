//! Captures of packets.

use super::*;

fn capture(rig: &Rig, packets: u64) -> Request {
    Request::Capture {
        port: "p0".into(),
        file: rig
            .dir
            .path()
            .join("frames.pcapng")
            .to_str()
            .unwrap()
            .into(),
        filter: String::new(),
        packets,
        seconds: 0,
    }
}

#[test]
fn a_capture_ends_at_its_limit_by_request_or_with_its_connection() {
    let rig = Rig::start();
    let mut client = rig.client();
    assert!(matches!(
        client.ask(capture(&rig, 3)),
        Response::Started { .. }
    ));
    let summary = text(client.answer());
    assert!(
        summary.starts_with("3 packets captured (3 received"),
        "{summary}"
    );
    assert!(summary.contains("packet limit"), "{summary}");
    assert!(
        std::fs::metadata(rig.dir.path().join("frames.pcapng"))
            .unwrap()
            .len()
            > 200
    );

    assert!(matches!(
        client.ask(capture(&rig, 0)),
        Response::Started { .. }
    ));
    assert_eq!(refused(rig.ask(capture(&rig, 0))).0, ErrorKind::Busy);
    let told = text(rig.ask(Request::StopCapture));
    assert!(told.contains("ended: stopped"), "{told}");
    assert_eq!(text(client.answer()), told, "both are told");
    assert_eq!(refused(rig.ask(Request::StopCapture)).0, ErrorKind::Failed);

    assert!(matches!(
        client.ask(capture(&rig, 0)),
        Response::Started { .. }
    ));
    drop(client);
    rig.until("the capture without a client has ended", || {
        matches!(rig.client().ask(capture(&rig, 1)), Response::Started { .. })
    });
}

#[test]
fn a_capture_that_cannot_begin_is_refused() {
    let rig = Rig::start();
    let with = |change: &dyn Fn(&mut String, &mut String, &mut String)| {
        let Request::Capture {
            mut port,
            mut file,
            mut filter,
            packets,
            seconds,
        } = capture(&rig, 1)
        else {
            panic!()
        };
        change(&mut port, &mut file, &mut filter);
        refused(rig.ask(Request::Capture {
            port,
            file,
            filter,
            packets,
            seconds,
        }))
    };
    assert!(
        with(&|port, _, _| *port = "p9".into())
            .1
            .contains("p0, any")
    );
    assert!(
        with(&|_, file, _| *file = "here".into())
            .1
            .contains("absolute")
    );
    assert!(
        with(&|_, _, filter| *filter = "tcp or".into())
            .1
            .contains("missing at its end")
    );
    let (kind, message) = with(&|_, file, _| file.push_str("/no/such"));
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains("no/such"), "{message}");
}
