//! Captures: pcap files that every subject is fed from, generated the same in every run.
//!
//! Format: pcap 2.4, little endian, microseconds (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::ValueEnum;

use crate::{
    frame::{Family, Kind, SMALLEST},
    random::Random,
};

mod options;

pub use options::Options;

/// The most bytes of a packet a reader of the capture must be ready for.
const LONGEST: usize = 65_535;
/// Clients there can be.
const CLIENTS: u32 = 1 << 28;

/// In which order sessions' packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// One of each, by number.
    Sequential,
    /// One of each, shuffled: as many packets as sessions, and none is drawn twice.
    Shuffled,
    /// Drawn at random, all alike.
    Uniform,
    /// Drawn at random, the n-th as often as 1/n (Zipf's law, exponent 1).
    Zipf,
}

/// Transport of a capture's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo requests and errors, in turn: of as many echo sessions, and about as many TCP sessions.
    Icmp,
}

/// Bytes of frames, without check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All alike.
    All(usize),
    /// Drawn at random: 7 of 12 small, 4 of 590, 1 of 1514 (the simple Internet mix, as RFC 6985 quotes it).
    Imix,
}

impl Sizes {
    fn draw(self, random: &mut Random) -> usize {
        match self {
            Self::All(bytes) => bytes,
            Self::Imix => match random.below(12) {
                0..7 => SMALLEST,
                7..11 => 590,
                _ => 1514,
            },
        }
    }
}

/// What a capture holds: packets of clients, none of the managed address's answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capture {
    /// Sessions.
    pub sessions: u32,
    /// Number of the first session's client; others follow.
    pub first: u32,
    /// Packets. [`Order::Sequential`] and [`Order::Shuffled`] have as many as sessions.
    pub packets: u32,
    /// Sizes of frames; of [`Sizes::Imix`], small ones have what their headers need.
    pub sizes: Sizes,
    /// Order.
    pub order: Order,
    /// Transport.
    pub transport: Transport,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Share of TCP packets that are SYNs.
    pub syn_share: f64,
    /// Share of TCP packets that carry a FIN.
    pub fin_share: f64,
}

impl Capture {
    /// First packets of `sessions` that come to nothing: SYNs if the transport is TCP. Clients have numbers from `first` on.
    #[must_use]
    pub fn flood(transport: Transport, first: u32, sessions: u32) -> Self {
        let syn_share = if transport == Transport::Tcp { 1.0 } else { 0.0 };
        let flood = Self { transport, first, syn_share, ..Self::established(sessions) };
        Self { sizes: Sizes::All(flood.smallest()), ..flood }
    }

    /// One smallest TCP segment with ACK for each of `sessions`, shuffled.
    #[must_use]
    pub fn established(sessions: u32) -> Self {
        Self {
            sessions,
            first: 0,
            packets: sessions,
            sizes: Sizes::All(SMALLEST),
            order: Order::Shuffled,
            transport: Transport::Tcp,
            family: Family::V4,
            syn_share: 0.0,
            fin_share: 0.0,
        }
    }

    /// Its file, in `dir`; written if it is not there.
    ///
    /// # Errors
    /// When there can be no such capture, or it cannot be written.
    pub fn file(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let path = dir.join(self.file_name());
        if !path.exists() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            self.write_file(&path)?;
        }
        Ok(path)
    }

    /// Write it to `path`, which is there only when it is complete.
    ///
    /// # Errors
    /// When there can be no such capture, or it cannot be written.
    pub fn write_file(&self, path: &Path) -> anyhow::Result<()> {
        self.check()?;
        let unfinished = path.with_extension("pcap.tmp");
        let file = File::create(&unfinished);
        let mut file =
            BufWriter::new(file.with_context(|| format!("create {}", unfinished.display()))?);
        let written = self.write(&mut file).and_then(|()| file.flush());
        written.with_context(|| format!("write {}", unfinished.display()))?;
        fs::rename(&unfinished, path).with_context(|| format!("write {}", path.display()))
    }

    /// Sessions of which it has packets: draws do not meet all.
    #[must_use]
    pub fn sessions_met(&self) -> u32 {
        let mut met = self.sessions(&mut self.random());
        met.sort_unstable();
        met.dedup();
        met.len() as u32
    }

    /// Whether there can be such a capture.
    fn check(&self) -> anyhow::Result<()> {
        let Self { sessions, packets, syn_share, fin_share, .. } = *self;
        let last = self.first.checked_add(sessions);
        anyhow::ensure!(
            sessions > 0 && last.is_some_and(|last| last <= CLIENTS),
            "{sessions} sessions from number {} on: there are clients 0 to {}",
            self.first,
            CLIENTS - 1
        );
        anyhow::ensure!(
            packets == sessions || matches!(self.order, Order::Uniform | Order::Zipf),
            "{packets} packets of {sessions} sessions: this order has one of each"
        );
        anyhow::ensure!(
            syn_share >= 0.0 && fin_share >= 0.0 && syn_share + fin_share <= 1.0,
            "shares of {syn_share} SYNs and {fin_share} FINs: together they are at most 1"
        );
        anyhow::ensure!(
            self.transport == Transport::Tcp || syn_share + fin_share == 0.0,
            "{:?} has neither SYN nor FIN",
            self.transport
        );
        if let Sizes::All(bytes) = self.sizes {
            let smallest = self.smallest();
            anyhow::ensure!(
                (smallest..=LONGEST).contains(&bytes),
                "frames of {bytes} bytes: these have {smallest} to {LONGEST}"
            );
        }
        Ok(())
    }

    /// Bytes of its smallest possible frame.
    fn smallest(&self) -> usize {
        self.family.smallest(match self.transport {
            Transport::Tcp => Kind::ACK,
            Transport::Udp => Kind::Udp,
            Transport::Icmp => Kind::Unreachable,
        })
    }

    /// A name that says all there is to say, so that a cached file is never another one.
    fn file_name(&self) -> String {
        let Self { sessions, first, packets, order, transport, family, .. } = self;
        let sizes = match self.sizes {
            Sizes::All(bytes) => bytes.to_string(),
            Sizes::Imix => "imix".to_owned(),
        };
        let (syn, fin) = (self.syn_share, self.fin_share);
        format!(
            "v3-{family:?}-{transport:?}-{sessions}-from-{first}-{order:?}-{packets}x{sizes}-syn{syn}-fin{fin}.pcap"
        )
        .to_lowercase()
    }

    fn random(&self) -> Random {
        Random::new(u64::from(self.sessions))
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        const MAGIC: u32 = 0xa1b2_c3d4;
        const ETHERNET: u32 = 1;
        out.write_all(&MAGIC.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        out.write_all(&(LONGEST as u32).to_le_bytes())?;
        out.write_all(&ETHERNET.to_le_bytes())?;
        let mut random = self.random();
        let smallest = self.smallest();
        for (number, session) in (0u32..).zip(self.sessions(&mut random)) {
            let kind = self.kind(session, &mut random);
            let bytes = self.sizes.draw(&mut random).max(smallest);
            let frame = self.family.build(self.first + session, kind, bytes);
            let length = (bytes as u32).to_le_bytes();
            out.write_all(&(number / 1_000_000).to_le_bytes())?;
            out.write_all(&(number % 1_000_000).to_le_bytes())?;
            out.write_all(&length)?;
            out.write_all(&length)?;
            out.write_all(&frame)?;
        }
        Ok(())
    }

    /// The session of each packet.
    fn sessions(&self, random: &mut Random) -> Vec<u32> {
        match self.order {
            Order::Sequential => (0..self.sessions).collect(),
            Order::Shuffled => {
                let mut sessions: Vec<_> = (0..self.sessions).collect();
                random.shuffle(&mut sessions);
                sessions
            }
            Order::Uniform => (0..self.packets).map(|_| random.below(self.sessions)).collect(),
            Order::Zipf => self.zipf(random),
        }
    }

    fn zipf(&self, random: &mut Random) -> Vec<u32> {
        let mut total = 0.0;
        let mut cumulative = Vec::with_capacity(self.sessions as usize);
        for rank in 1..=self.sessions {
            total += 1.0 / f64::from(rank);
            cumulative.push(total);
        }
        // Popularity has nothing to do with the number.
        let mut names: Vec<_> = (0..self.sessions).collect();
        random.shuffle(&mut names);
        (0..self.packets)
            .map(|_| {
                let drawn = random.unit() * total;
                let rank = cumulative.partition_point(|&sum| sum <= drawn);
                names[rank.min(names.len() - 1)]
            })
            .collect()
    }

    fn kind(&self, session: u32, random: &mut Random) -> Kind {
        match self.transport {
            Transport::Tcp => self.segment(random),
            Transport::Udp => Kind::Udp,
            Transport::Icmp if session.is_multiple_of(2) => Kind::Echo,
            Transport::Icmp => Kind::Unreachable,
        }
    }

    fn segment(&self, random: &mut Random) -> Kind {
        let drawn = random.unit();
        if drawn < self.syn_share {
            Kind::SYN
        } else if drawn < self.syn_share + self.fin_share {
            Kind::FIN
        } else {
            Kind::ACK
        }
    }
}

#[cfg(test)]
mod tests;
