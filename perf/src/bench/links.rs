//! The ways from host to host: TCP beside iperf3, TLS and libfabric beside TCP.

use std::sync::Arc;

use anyhow::Context as _;
use tidegate_fabric::Provider;
use tidegate_memory::{Mapping, transport::tls::TlsFiles};

use super::{Context, Outcome};
use crate::{
    engine::{
        Place, authority,
        copies::{Copying, Way},
        iperf3, memory,
        streams::Streams,
    },
    machine::on_all_cpus,
    result::Metric,
    samples::Samples,
    subject::peer::IPERF3,
};

const STREAMS: usize = 4;
const SIZE_BYTES: u64 = 1 << 30;

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    on_all_cpus(context.machine.cpus, || measure(context))
}

/// A way, and what it carried.
struct Measured {
    copying: Copying,
    /// The first pass, into memory that was not there.
    first: f64,
    rates: Samples,
}

/// Bytes per second.
struct Rates {
    first: Samples,
    passes: Samples,
}

impl Measured {
    fn begin(place: &Place, name: &str, memory: &Arc<Mapping>, way: Way) -> anyhow::Result<Self> {
        let mut copying = Copying::begin(&place.dir().join(name), memory, &way)?;
        let first = copying.pass()?;
        Ok(Self { copying, first, rates: Samples::default() })
    }

    /// Commit it: what arrived is then known to be what was sent.
    fn end(self) -> anyhow::Result<Rates> {
        self.copying.finish()?;
        Ok(Rates { first: Samples::from_iter([self.first]), passes: self.rates })
    }
}

fn measure(context: &Context) -> anyhow::Result<Outcome> {
    // Before memory is filled.
    IPERF3.find()?;
    let place = Place::new("links")?;
    let source = memory::noise(&place.dir().join("source"), SIZE_BYTES, 1)?;
    let [certificate, key, ca] = authority::make(place.dir(), "authority", &["127.0.0.1"]);
    let files = TlsFiles { certificate, key, ca };
    let begin = |name: &str, way| {
        Measured::begin(&place, name, &source, way).with_context(|| format!("copy over {name}"))
    };
    let mut ways = [
        begin("tcp", Way::Tcp(STREAMS, None))?,
        begin("tls", Way::Tcp(STREAMS, Some(files)))?,
        begin("fabric-tcp", Way::Fabric(Provider::Tcp))?,
        begin("fabric-shm", Way::Fabric(Provider::Shm))?,
    ];
    let mut bare = Streams::begin(&place.dir().join("bare"), &source, STREAMS)?;
    // Into memory that was not there.
    bare.pass()?;
    let (mut transport, mut theirs) = (Samples::default(), Samples::default());
    for run in 1..=context.runs {
        theirs.push(iperf3::rate(STREAMS, context.window)?);
        transport.push(bare.pass()?);
        for way in &mut ways {
            // Every page has to be sent again.
            memory::touch(&source, run as u64)?;
            way.rates.push(way.copying.pass()?);
        }
    }
    let rates = ways.into_iter().map(Measured::end).collect::<anyhow::Result<Vec<_>>>()?;
    let metrics = metrics(&rates, &transport, &theirs).context("a way is missing")?;
    Ok(Outcome { metrics, curves: Vec::new() })
}

fn metrics(rates: &[Rates], transport: &Samples, theirs: &Samples) -> Option<Vec<Metric>> {
    let [tcp, tls, fabric, shm] = rates else { return None };
    let unit = "bytes of memory per second";
    let iperf3 = "iperf3 -P 4";
    let beside = |name, ours: &Samples, versus, theirs: &Samples| {
        Metric::beside(name, unit, ours.clone(), versus, theirs.clone())
    };
    Some(vec![
        beside("tcp_vs_iperf3", &tcp.passes, iperf3, theirs).note(
            "a pass of the copy protocol over 1 GiB of changed pages, 4 streams, both ends' page hashes and the barrier included; \
             iperf3 looks at no byte",
        ),
        beside("tcp_transport_vs_iperf3", transport, iperf3, theirs).note(
            "the same memory over as many bare streams, sent and received in the same pieces, and no page hashed",
        ),
        beside("tcp_fresh_vs_iperf3", &tcp.first, iperf3, theirs)
            .note("the first pass, into a file whose pages the kernel has yet to find and to clear"),
        beside("tls_vs_plain", &tls.passes, "itself without TLS", &tcp.passes)
            .note("TLS 1.3, both ends authenticated"),
        beside("fabric_vs_tcp", &fabric.passes, "its TCP transport", &tcp.passes)
            .note("libfabric tcp;ofi_rxm: RMA writes of up to 1 MiB, one lane; both ends' page hashes included"),
        beside("fabric_shm_vs_tcp", &shm.passes, "its TCP transport", &tcp.passes)
            .note("libfabric shm, within one machine"),
    ])
}
