//! How long a guest is paused for a capture, by either way and for small and large RAM, while it rewrites part of its
//! memory all the time.
//!
//! `cargo run --release -p tidegate-host --example capture_pause [ROUNDS]` prints medians and their ratio.

use std::{error::Error, fs, path::Path, time::Duration};

use tidegate_api::{
    endpoint::{Endpoint, connect},
    host::{self as api, CaptureWay, host_client::HostClient},
};
use tidegate_host::{ApiConfig, DataConfig, Host, HostConfig, QemuConfig};
use tonic::transport::Channel;

#[path = "../tests/guests/rewriter.rs"]
#[allow(dead_code)]
mod rewriter;

const SIZES_MIB: [u32; 2] = [256, 1024];
const REWRITTEN_MIB: u32 = 16;

type Client = HostClient<Channel>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(7), |text| text.parse())?;
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let config = HostConfig {
        name: "here".to_owned(),
        state_dir: dir.path().join("s"),
        memory_dir: dir.path().join("m"),
        twin_dir: dir.path().join("t"),
        twin_memory_bytes: None,
        api: ApiConfig { listen: vec![format!("unix:{}/api", dir.path().display())] },
        data: DataConfig::default(),
        qemu: QemuConfig::default(),
    };
    let host = Host::start(config.clone()).await?;
    let endpoint: Endpoint = config.api.listen[0].parse()?;
    let mut client = HostClient::new(connect(&endpoint).await?);
    println!("a guest that rewrites {REWRITTEN_MIB} MiB all the time, {rounds} captures each");
    let mut medians = Vec::new();
    for memory_mib in SIZES_MIB {
        let guest = rewriter::Rewriter { memory_mib, rewritten_mib: REWRITTEN_MIB };
        start(&mut client, dir.path(), guest).await?;
        // Taken in turn, so that whatever else this machine does is as bad for one as for the other.
        let mut pauses = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (way, pauses) in [CaptureWay::Stop, CaptureWay::Passes].into_iter().zip(&mut pauses)
            {
                let report = capture(&mut client, &format!("r{round}"), way).await?;
                pauses.push(Duration::from_nanos(report.pause_ns));
                if round == 0 && way == CaptureWay::Passes {
                    println!("{memory_mib} MiB: passes of {:?} bytes", report.pass_bytes);
                }
            }
        }
        let [stop, passes] = pauses.map(median);
        println!("{memory_mib} MiB: stop {stop:?}, passes {passes:?}");
        medians.push((stop, passes));
        let delete = api::DeleteGuestRequest { name: "web".to_owned(), purge: true };
        client.delete_guest(delete).await?;
    }
    if let [small, large] = medians[..] {
        let ratio = |small: Duration, large: Duration| large.as_secs_f64() / small.as_secs_f64();
        let (stop, passes) = (ratio(small.0, large.0), ratio(small.1, large.1));
        println!("1 GiB to 256 MiB: stop {stop:.2}, passes {passes:.2} (1.3 at most is wanted)");
    }
    drop(client);
    host.shutdown().await;
    Ok(())
}

async fn start(
    client: &mut Client,
    dir: &Path,
    guest: rewriter::Rewriter,
) -> Result<(), Box<dyn Error>> {
    let kernel = dir.join("rewriter");
    fs::write(&kernel, guest.kernel())?;
    let spec = api::GuestSpec {
        name: "web".to_owned(),
        memory_mib: guest.memory_mib,
        memory_shared: true,
        kernel: kernel.display().to_string(),
        ..Default::default()
    };
    let started = client.start_guest(api::StartGuestRequest { spec: Some(spec) }).await?;
    rewriter::ready(&started.into_inner().console_path).await;
    Ok(())
}

async fn capture(
    client: &mut Client,
    id: &str,
    way: CaptureWay,
) -> Result<api::CaptureReport, Box<dyn Error>> {
    let request = api::CaptureRequest {
        migration_id: id.to_owned(),
        guest: "web".to_owned(),
        clone: true,
        way: way.into(),
        ..Default::default()
    };
    let report = client.capture(request).await?.into_inner();
    client.forget(api::ForgetRequest { migration_id: id.to_owned() }).await?;
    Ok(report)
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}
