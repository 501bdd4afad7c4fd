//! Copies where nothing goes wrong, over real sockets.

use std::{net::TcpListener, sync::Arc, thread, time::Instant};

use super::*;
use crate::{
    PageHashes,
    copy::ground::Ground,
    transport::{Arrivals, DialPlain, DialTls, Lane, Plain, TlsIdentity, tls::TlsFiles},
};

/// Serve what connects to a port of this machine.
pub(super) fn listen(host: &Arc<Host>, identity: Option<TlsIdentity>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let host = host.clone();
    thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            match &identity {
                None => host.serve(Box::new(Plain::new(socket).expect("socket"))),
                // Who proves nothing is turned away.
                Some(identity) => match identity.accept(socket) {
                    Ok(stream) => host.serve(stream),
                    Err(error) => eprintln!("{error}"),
                },
            }
        }
    });
    address
}

#[test]
fn objects_arrive_as_they_were_and_zeros_stay_at_home() {
    let dir = tempfile::tempdir().expect("dir");
    for lanes in [1, 4] {
        let host = Arc::new(Host::new(dir.path()));
        let _ = fs::remove_file(host.shelf.ledger());
        // What an attempt of another layout left there must not show.
        fs::write(host.shelf.path(2), [3; 9000]).expect("leftover");
        let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
        let mut last = Progress::default();
        let sending = begin(&dial, lanes, Compression::Off, "m1", sources(dir.path()));
        let sent = sending.expect("begin").finish(&mut |progress| last = progress).expect("sent");
        let received = host.outcome().expect("received");
        assert_eq!((&received.digest, &*received.path), (&sent.digest, "tcp"));
        assert_arrived(dir.path(), &host.shelf, 3);
        assert_eq!(last.covered_bytes, last.total_bytes);
        assert_eq!(last.total_bytes, SECTION_BYTES + (3 << 20) + 5001 + 8192);
        // Two pages alone, 1 MiB with the pages at its ends, and two pages of device state; and six heads.
        let pages = 2 * 4096 + (1 << 20) + 2 * 4096 + 5001;
        assert!(sent.progress.sent_bytes >= pages, "{sent:?}");
        assert!(sent.progress.sent_bytes <= pages + 8 * 24, "{sent:?}");
        assert_eq!(host.shelf.taken.lock().expect("lock").len(), 1);
    }
}

/// A data path that both hosts have, and that cannot be taken.
struct Unable(&'static str);

impl Transport for Unable {
    fn name(&self) -> String {
        self.0.to_owned()
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn connect(
        &self,
        _: &[u8],
        _: &[Option<Arc<Mapping>>],
    ) -> Result<Vec<Box<dyn Lane>>, MemoryError> {
        panic!("{} was not offered", self.0);
    }

    fn accept(&self, _: &Arc<Ground>) -> Result<Box<dyn Arrivals>, MemoryError> {
        Err(MemoryError::Refused(format!("{} cannot lock memory", self.0)))
    }
}

#[test]
fn the_next_path_is_taken_when_one_cannot_be() {
    let dir = tempfile::tempdir().expect("dir");
    let unable = ["a", "b"].map(|name| -> Arc<dyn Transport> { Arc::new(Unable(name)) });
    let mut host = Host::new(dir.path());
    host.receiver = Arc::new(Receiver::new(false, unable.to_vec()));
    let host = Arc::new(host);
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let send = |with_tcp: bool| {
        let controls = Arc::new(Controls::new(None));
        let tcp = TcpSender {
            dial: dial.clone(),
            streams: 2,
            compression: Compression::Off,
            controls: controls.clone(),
        };
        let mut transports = unable.to_vec();
        if with_tcp {
            transports.push(Arc::new(tcp));
        }
        Sending::begin(&*dial, "m1", sources(dir.path()), &transports, controls)?
            .finish(&mut |_| {})
    };
    assert_eq!(send(true).expect("sent").path, "tcp");
    assert_eq!(host.outcome().expect("received").path, "tcp");
    assert_arrived(dir.path(), &host.shelf, 3);
    let error = send(false).expect_err("refused").to_string();
    for reason in
        ["none of the data paths can be taken", "a cannot lock memory", "b cannot lock memory"]
    {
        assert!(error.contains(reason), "`{reason}` in {error}");
    }
}

#[test]
fn hashes_that_were_given_are_taken() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let mut given = sources(dir.path());
    for source in &mut given {
        source.hashes = Some(Arc::new(PageHashes::of(memory(source)).expect("hash")));
    }
    let with = send_over(&dial, 2, "m1", given.clone()).expect("sent");
    assert_arrived(dir.path(), &host.shelf, 3);
    given.iter_mut().for_each(|source| source.hashes = None);
    let without = send_over(&dial, 2, "m1", given.clone()).expect("sent");
    assert_eq!(with.digest, without.digest);
    assert_eq!(without.progress.sent_bytes, 0, "everything was there");

    // Hashes of something else are found out, and the section is named.
    fs::remove_file(host.shelf.ledger()).expect("ledger");
    let mut hashes = PageHashes::of(memory(&given[1])).expect("hash");
    hashes.hashes_mut()[1] ^= 1;
    given[1].hashes = Some(Arc::new(hashes));
    let error = send_over(&dial, 2, "m1", given).expect_err("wrong").to_string();
    assert!(error.starts_with("section 2 (5001 bytes at 0 of the device state)"), "{error}");
}

#[test]
fn a_confirmed_copy_is_confirmed_again_by_hashes_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let given = sources(dir.path());
    let sent = send_over(&dial, 2, "m1", given.clone()).expect("sent");
    for (source, hashes) in given.iter().zip(&sent.hashes) {
        assert_eq!(**hashes, PageHashes::of(memory(source)).expect("hash"));
    }
    let only_hashes = |(source, hashes): (Source, &Arc<PageHashes>)| Source {
        memory: None,
        hashes: Some(hashes.clone()),
        ..source
    };
    let mut held: Vec<_> = given.into_iter().zip(&sent.hashes).map(only_hashes).collect();
    let ask = |held: &[_]| send_over(&dial, 2, "m1", held.to_vec());
    // As well when the first attempt has brought part of it over, and a second the rest.
    let again = send_over(&dial, 2, "m1", sources(dir.path())).expect("sent");
    assert_eq!(again.hashes, sent.hashes);
    let again = ask(&held).expect("confirmed");
    assert_eq!((again.digest, again.progress.sent_bytes), (sent.digest, 0));
    assert_eq!(again.progress.covered_bytes, sent.progress.total_bytes);
    assert_eq!(host.shelf.taken.lock().expect("lock").len(), 3);
    assert_arrived(dir.path(), &host.shelf, 3);

    // It has something else there.
    let right = held[0].hashes.clone();
    let mut wrong = PageHashes::clone(right.as_ref().expect("hashes"));
    wrong.hashes_mut()[SECTION_BYTES as usize / 4096 + 1] ^= 1;
    held[0].hashes = Some(Arc::new(wrong));
    let error = ask(&held).expect_err("another");
    assert!(matches!(error, MemoryError::Gone { section: 1, .. }), "{error}");
    // And now nothing: the section was begun anew.
    held[0].hashes = right;
    let error = ask(&held).expect_err("void").to_string();
    assert!(error.contains("section 1, of the ram, any more"), "{error}");
    assert!(error.contains("abort the migration and start it again"), "{error}");
    // Who still has the bytes sends it.
    send_over(&dial, 2, "m1", sources(dir.path())).expect("sent");
    ask(&held).expect("confirmed");
}

#[test]
fn packed_bytes_arrive_and_are_fewer() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let mut bytes = vec![0; 3 << 20];
    // Half of it repeats, half does not.
    let mut state = 1_u64;
    for byte in &mut bytes[..1 << 20] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    bytes[1 << 20..2 << 20].copy_from_slice(&b"0123456789abcdef".repeat(1 << 16));
    let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &bytes)];
    let sending = begin(&dial, 2, Compression::On, "m1", sources).expect("begin");
    let sent = sending.finish(&mut |_| {}).expect("sent");
    assert_arrived(dir.path(), &host.shelf, 1);
    let wire = sent.progress.sent_bytes;
    assert!(wire > 1 << 20 && wire < (1 << 20) + (64 << 10), "{wire}");
}

#[test]
fn packing_is_taken_when_the_link_is_slow_only() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let bytes = b"memory that repeats and is packed well. ".repeat(1 << 19);
    let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &bytes)];
    for (cap, packs) in [(None, false), (Some(1 << 20), true)] {
        let _ = fs::remove_file(host.shelf.ledger());
        let controls = Arc::new(Controls::new(cap));
        let tcp: Arc<dyn Transport> = Arc::new(TcpSender {
            dial: dial.clone(),
            streams: 1,
            compression: Compression::Auto,
            controls: controls.clone(),
        });
        let sending = Sending::begin(&*dial, "m1", sources.clone(), &[tcp], controls);
        let sent = sending.expect("begin").finish(&mut |_| {}).expect("sent");
        assert_arrived(dir.path(), &host.shelf, 1);
        let packed = sent.progress.sent_bytes < bytes.len() as u64 / 4;
        // Without a cap it is a measurement of this machine, which may be a slow one: only told.
        println!("cap {cap:?}: {} of {} bytes", sent.progress.sent_bytes, bytes.len());
        assert!(packed || !packs);
    }
}

#[test]
fn a_cap_is_kept_and_can_be_lifted() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let bytes = vec![5; 64 << 20];
    let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &bytes)];
    // It would take more than half an hour.
    let controls = Arc::new(Controls::new(Some(32 << 10)));
    let tcp: Arc<dyn Transport> = Arc::new(TcpSender {
        dial: dial.clone(),
        streams: 2,
        compression: Compression::Off,
        controls: controls.clone(),
    });
    let began = Instant::now();
    let sending = Sending::begin(&*dial, "m1", sources, &[tcp], controls.clone()).expect("begin");
    let mut reports = 0;
    let sent = sending.finish(&mut |progress| {
        reports += 1;
        if reports == 3 {
            assert!(progress.sent_bytes < 4 << 20, "{progress:?}");
            controls.set_cap(None);
        }
    });
    sent.expect("sent");
    assert!(reports >= 3 && began.elapsed().as_secs() < 25, "{:?}", began.elapsed());
    assert_arrived(dir.path(), &host.shelf, 1);
}

#[test]
fn a_cancelled_copy_ends_and_says_why() {
    let dir = tempfile::tempdir().expect("dir");
    let host = Arc::new(Host::new(dir.path()));
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(listen(&host, None)));
    let sources = vec![source(dir.path(), 0, ObjectKind::Ram, &vec![5; 16 << 20])];
    let controls = Arc::new(Controls::new(Some(1 << 10)));
    let tcp: Arc<dyn Transport> = Arc::new(TcpSender {
        dial: dial.clone(),
        streams: 2,
        compression: Compression::Off,
        controls: controls.clone(),
    });
    let sending = Sending::begin(&*dial, "m1", sources, &[tcp], controls.clone()).expect("begin");
    let error = sending.finish(&mut |_| controls.cancel("not wanted")).expect_err("cancelled");
    assert_eq!(error.to_string(), "the copy was cancelled: not wanted");
    let error = host.outcome().expect_err("cancelled");
    assert_eq!(error.to_string(), "the copy was cancelled: not wanted");
}

#[test]
fn tls_carries_a_copy_between_those_who_trust_each_other_only() {
    let dir = tempfile::tempdir().expect("dir");
    let identity = |authority: &str| {
        let [certificate, key, ca] = authority::make(dir.path(), authority, &["127.0.0.1"]);
        TlsIdentity::load(&TlsFiles { certificate, key, ca }).expect("identity")
    };
    let (ours, strangers) = (identity("ours"), identity("strangers"));
    let host = Arc::new(Host::new(dir.path()));
    let address = listen(&host, Some(ours.clone()));
    let dial: Arc<dyn Dial> =
        Arc::new(DialTls { address: address.clone(), identity: ours.clone() });
    assert!(dial.is_encrypted());
    let sent = send_over(&dial, 3, "m1", sources(dir.path())).expect("sent");
    assert_eq!(host.outcome().expect("received").digest, sent.digest);
    assert_arrived(dir.path(), &host.shelf, 3);

    let dial: Arc<dyn Dial> = Arc::new(DialTls { address: address.clone(), identity: strangers });
    let error = send_over(&dial, 1, "m1", sources(dir.path())).expect_err("stranger");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    // By a name that its certificate does not have.
    let port = address.rsplit_once(':').expect("port").1;
    let dial: Arc<dyn Dial> =
        Arc::new(DialTls { address: format!("localhost:{port}"), identity: ours.clone() });
    let error = send_over(&dial, 1, "m1", sources(dir.path())).expect_err("another name");
    assert!(error.to_string().contains("not valid for name"), "{error}");
    let dial: Arc<dyn Dial> = Arc::new(DialPlain(address.clone()));
    let error = send_over(&dial, 1, "m1", sources(dir.path())).expect_err("plain");
    assert!(matches!(error, MemoryError::Connection { .. } | MemoryError::Protocol(_)), "{error}");
    // Whoever listens is none the worse for any of them.
    let dial: Arc<dyn Dial> = Arc::new(DialTls { address, identity: ours });
    send_over(&dial, 1, "m1", sources(dir.path())).expect("sent");
}
