//! A real guest's sockets, listed by the real guest agent in it.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use tidegate_api::host as api;
use tonic::{Code, Status};

use super::rig::{Rig, refusal, spec};

/// A guest's address in QEMU's own network, in which the host is 10.0.2.2.
const ADDRESS: &str = "10.0.2.15";
const SERVICE_PORT: u16 = 7000;
const BOOT: Duration = Duration::from_secs(120);

/// A guest that boots the test image and has an agent.
fn booting(name: &str) -> api::GuestSpec {
    let program = env::current_exe().expect("this program has a path");
    let image = program.ancestors().nth(3).expect("it is in target/debug/deps").join("guest");
    let path = |file: &str| {
        let path = image.join(file);
        assert!(path.exists(), "{} is not there: run `make guest`", path.display());
        path.display().to_string()
    };
    api::GuestSpec {
        memory_mib: 128,
        kernel: path("vmlinuz"),
        initrd: path("initramfs.cpio.gz"),
        cmdline: format!("console=ttyS0 quiet panic=-1 tg.addr={ADDRESS}/24"),
        // What the service in the image counts in.
        regions: vec![api::Region { name: "counts".into(), size_bytes: 1 << 20 }],
        guest_agent: true,
        ..spec(name)
    }
}

fn ask(guest: &str, addresses: &[&str]) -> api::ListSocketsRequest {
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    let source = api::SocketSource::Agent.into();
    api::ListSocketsRequest { guest: guest.to_owned(), addresses, source }
}

async fn sockets(
    rig: &mut Rig,
    request: api::ListSocketsRequest,
) -> Result<Vec<api::Socket>, Status> {
    let mut stream = rig.client.list_sockets(request).await?.into_inner();
    let mut sockets = Vec::new();
    while let Some(socket) = stream.message().await? {
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Its sockets as soon as its agent has started.
async fn booted(rig: &mut Rig, guest: &str) -> Vec<api::Socket> {
    let until = Instant::now() + BOOT;
    loop {
        match sockets(rig, ask(guest, &[])).await {
            Ok(sockets) => return sockets,
            Err(error) if Instant::now() > until => {
                let console = rig.config.state_dir.join("guests").join(guest).join("console.log");
                panic!("{error}\n{}", fs::read_to_string(console).unwrap_or_default());
            }
            Err(error) => assert!(error.message().contains("does it run in the guest"), "{error}"),
        }
    }
}

/// A session with the guest's service, which has answered.
fn session(port: u16, number: u32) -> TcpStream {
    let until = Instant::now() + BOOT;
    loop {
        // QEMU accepts also what the guest is not ready for, and closes it then.
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("QEMU accepts");
        let said = write!(stream, "HELLO {number}\nREQ {number} 1\n");
        let mut answer = String::new();
        let answered = BufReader::new(&stream).read_line(&mut answer);
        if said.is_ok() && answered.is_ok() && !answer.is_empty() {
            return stream;
        }
        assert!(Instant::now() < until, "the service does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_open_sessions_are_listed() {
    let mut host = Rig::new("h").await;
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("address").port();
    drop(free);
    let network = format!("user,id=lan,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{SERVICE_PORT}");
    let extra_args = ["-netdev", &network, "-device", "virtio-net-pci,netdev=lan,romfile="];
    let extra_args = extra_args.map(str::to_owned).to_vec();
    host.start_guest(api::GuestSpec { extra_args, ..booting("web") }).await;
    assert_eq!(booted(&mut host, "web").await, [], "it listens, and nobody has come");

    let mut open: Vec<_> = (0..20).map(|number| session(port, number)).collect();
    let listed = sockets(&mut host, ask("web", &[ADDRESS])).await.expect("listed");
    assert_eq!(listed.len(), open.len(), "{listed:?}");
    for socket in &listed {
        assert_eq!((socket.protocol, socket.state()), (6, api::SocketState::Established));
        let ends = (socket.local_address.as_str(), socket.remote_address.as_str());
        assert_eq!(ends, (ADDRESS, "10.0.2.2"));
        assert_eq!(socket.local_port, u32::from(SERVICE_PORT));
    }
    let clients: BTreeSet<_> = listed.iter().map(|socket| socket.remote_port).collect();
    assert_eq!(clients.len(), open.len());
    assert_eq!(sockets(&mut host, ask("web", &[])).await.expect("listed").len(), open.len());
    assert_eq!(sockets(&mut host, ask("web", &["10.0.2.16"])).await.expect("listed"), []);

    open.truncate(13);
    let until = Instant::now() + Duration::from_secs(20);
    while sockets(&mut host, ask("web", &[ADDRESS])).await.expect("listed").len() != open.len() {
        assert!(Instant::now() < until, "closed ones stay in the list");
    }

    host.client.pause_guest(api::PauseGuestRequest { name: "web".into() }).await.expect("paused");
    let (code, message) = refusal(host.client.list_sockets(ask("web", &[])).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("guest `web` does not run"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_has_an_agent_as_its_source_has() {
    let (mut a, mut b) = (Rig::new("a").await, Rig::new("b").await);
    a.start_guest(booting("web")).await;
    booted(&mut a, "web").await;
    a.capture("web", true).await.expect("captured");
    let data = b.prepare(booting("web-2"), true).await;
    a.send(&data).await.expect("sent");
    let request = api::StartDestinationRequest { migration_id: "m1".into(), ..Default::default() };
    b.client.start_destination(request).await.expect("started");
    assert_eq!(booted(&mut b, "web-2").await, []);
    assert_eq!(booted(&mut a, "web").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_asked_is_told() {
    let mut host = Rig::new("h").await;
    let (code, _) = refusal(host.client.list_sockets(ask("web", &[])).await);
    assert_eq!(code, Code::NotFound);
    host.start_guest(spec("web")).await;
    let (code, message) = refusal(host.client.list_sockets(ask("web", &[])).await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("has no channel for a guest agent; start it with"), "{message}");
    let (code, message) = refusal(host.client.list_sockets(ask("web", &["ten"])).await);
    assert_eq!(
        (code, message.as_str()),
        (Code::InvalidArgument, "addresses: `ten` is not an address")
    );
    let conntrack = api::SocketSource::Conntrack.into();
    let request = api::ListSocketsRequest { source: conntrack, ..ask("web", &[]) };
    let (code, message) = refusal(host.client.list_sockets(request).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("addresses: missing"), "{message}");

    // The firmware has no agent.
    host.start_guest(api::GuestSpec { guest_agent: true, ..spec("db") }).await;
    let asked = Instant::now();
    let (code, message) = refusal(host.client.list_sockets(ask("db", &[])).await);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.starts_with("the guest agent of `db` cannot say"), "{message}");
    assert!(message.contains("did not answer `guest-sync-delimited` within 5000 ms"), "{message}");
}
