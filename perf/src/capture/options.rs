//! A capture as asked for on the command line.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Capture, Order, Sizes, Transport};
use crate::frame::Family;

/// Write a capture, for other tools; the same options give the same file.
#[derive(Args, Debug)]
pub struct Options {
    /// Sessions.
    #[arg(long, value_name = "N")]
    sessions: u32,
    /// Number of the first session's client; others follow.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u32,
    /// Order of packets: one of each session, or drawn.
    #[arg(long, value_enum, default_value_t = Order::Shuffled)]
    order: Order,
    /// Packets to draw; as many as sessions if it is not said.
    #[arg(long, value_name = "N")]
    packets: Option<u32>,
    /// Transport.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// IP version.
    #[arg(long, value_name = "v4|v6", default_value = "v4", value_parser = family)]
    family: Family,
    /// Bytes of each frame, without check sequence; the smallest possible if it is not said.
    #[arg(long, value_name = "BYTES", conflicts_with = "imix")]
    frame_bytes: Option<usize>,
    /// Frames of three sizes, small, 590 and 1514 bytes, 7 to 4 to 1.
    #[arg(long)]
    imix: bool,
    /// Share of TCP packets that are SYNs, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    syn_share: f64,
    /// Share of TCP packets that carry a FIN, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    fin_share: f64,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Options {
    /// The file to write.
    #[must_use]
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// The capture.
    #[must_use]
    pub fn capture(&self) -> Capture {
        let capture = Capture {
            sessions: self.sessions,
            first: self.first,
            packets: self.packets.unwrap_or(self.sessions),
            sizes: Sizes::Imix,
            order: self.order,
            transport: self.transport,
            family: self.family,
            syn_share: self.syn_share,
            fin_share: self.fin_share,
        };
        if self.imix {
            return capture;
        }
        let bytes = self.frame_bytes.unwrap_or_else(|| capture.smallest());
        Capture { sizes: Sizes::All(bytes), ..capture }
    }
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "v4" => Ok(Family::V4),
        "v6" => Ok(Family::V6),
        _ => Err("v4 or v6".to_owned()),
    }
}
