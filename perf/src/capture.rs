//! Captures: pcap files that every subject is fed from, generated the same in every run.
//!
//! Format: pcap 2.4, little endian, microseconds (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tidegate_dataplane::packet::TcpFlags;

use crate::{
    frame::{self, Kind, SMALLEST},
    random::Random,
};

/// In which order sessions' packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a capture holds. IPv4 throughout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capture {
    /// Sessions.
    pub sessions: u32,
    /// Number of the first session's client; others follow.
    pub first: u32,
    /// Packets. [`Order::Sequential`] and [`Order::Shuffled`] have as many as sessions.
    pub packets: u32,
    /// Bytes of each frame, without check sequence.
    pub frame_bytes: usize,
    /// Order.
    pub order: Order,
    /// TCP or UDP.
    pub transport: Transport,
    /// Share of TCP packets that are SYNs.
    pub syn_share: f64,
    /// Share of TCP packets that carry a FIN.
    pub fin_share: f64,
}

impl Capture {
    /// One smallest TCP segment with ACK for each of `sessions`, shuffled.
    #[must_use]
    pub fn established(sessions: u32) -> Self {
        Self {
            sessions,
            first: 0,
            packets: sessions,
            frame_bytes: SMALLEST,
            order: Order::Shuffled,
            transport: Transport::Tcp,
            syn_share: 0.0,
            fin_share: 0.0,
        }
    }

    /// Its file, in `dir`; written if it is not there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let path = dir.join(self.file_name());
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let unfinished = path.with_extension("pcap.tmp");
        let mut file = BufWriter::new(File::create(&unfinished)?);
        self.write(&mut file).and_then(|()| file.flush())?;
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }

    /// A name that says all there is to say, so that a cached file is never another one.
    fn file_name(&self) -> String {
        let Self { sessions, first, packets, frame_bytes, order, transport, .. } = self;
        let (syn, fin) = (self.syn_share * 1e4, self.fin_share * 1e4);
        format!(
            "v1-{transport:?}-{sessions}-from-{first}-{order:?}-{packets}x{frame_bytes}-syn{syn:.0}-fin{fin:.0}.pcap"
        )
        .to_lowercase()
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        const MAGIC: u32 = 0xa1b2_c3d4;
        const ETHERNET: u32 = 1;
        out.write_all(&MAGIC.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        out.write_all(&65_535u32.to_le_bytes())?;
        out.write_all(&ETHERNET.to_le_bytes())?;
        let mut random = Random::new(u64::from(self.sessions));
        let length = (self.frame_bytes as u32).to_le_bytes();
        for (number, session) in (0u32..).zip(self.sessions(&mut random)) {
            let frame =
                frame::build(self.first + session, self.kind(&mut random), self.frame_bytes);
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

    fn kind(&self, random: &mut Random) -> Kind {
        if self.transport == Transport::Udp {
            return Kind::Udp;
        }
        let drawn = random.unit();
        if drawn < self.syn_share {
            Kind::SYN
        } else if drawn < self.syn_share + self.fin_share {
            Kind::Tcp(TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0))
        } else {
            Kind::ACK
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(capture: &Capture) -> Vec<u32> {
        capture.sessions(&mut Random::new(1))
    }

    #[test]
    fn the_same_capture_is_the_same_file() {
        let (one, other) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let capture = Capture::established(1000);
        let [one, other] = [one, other].map(|dir| {
            let path = capture.file(dir.path()).expect("written");
            assert_eq!(path, capture.file(dir.path()).expect("cached"));
            fs::read(path).expect("read")
        });
        assert_eq!(one, other);
        assert_eq!(one.len(), 24 + 1000 * (16 + SMALLEST));
    }

    #[test]
    fn orders_are_what_they_say() {
        let mut shuffled = sessions(&Capture::established(1000));
        assert!(!shuffled.is_sorted());
        shuffled.sort_unstable();
        assert_eq!(shuffled, (0..1000).collect::<Vec<_>>());
        let zipf = Capture { order: Order::Zipf, packets: 20_000, ..Capture::established(1000) };
        let mut counts = [0; 1000];
        sessions(&zipf).iter().for_each(|&session| counts[session as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // 1/1 of the harmonic number of 1000, 7.49, is 13 %.
        assert!((2400..2950).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[1] * 3 / 2);
    }

    #[test]
    fn shares_are_kept() {
        let capture = Capture { syn_share: 0.25, fin_share: 0.25, ..Capture::established(1) };
        let mut random = Random::new(7);
        let kinds: Vec<_> = (0..10_000).map(|_| capture.kind(&mut random)).collect();
        let syns = kinds.iter().filter(|&&kind| kind == Kind::SYN).count();
        let plain = kinds.iter().filter(|&&kind| kind == Kind::ACK).count();
        assert!((2300..2700).contains(&syns) && (4700..5300).contains(&plain), "{syns} {plain}");
    }
}
