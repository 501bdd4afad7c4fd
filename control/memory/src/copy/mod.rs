//! The copy protocol: how one host sends pieces of a guest to another, version 3.
//!
//! A copy belongs to one migration, of which the receiver must have been told before. It has one *control stream*
//! and a *data path* ([`crate::transport`]): with TCP, further streams that are joined to it by a token. All streams
//! are TCP, plain or TLS 1.3 with both ends authenticated. What is copied are *objects*, cut into *sections* of
//! 64 MiB; each is committed by the digest of what is in the receiver's memory.
//!
//! ```text
//! sender                                        receiver
//! control stream
//!   HELLO (version, migration)           ──▶
//!                                        ◀──    WELCOME, or VERSIONS and close
//!   LAYOUT (objects, data paths)         ──▶
//!                                        ◀──    PLAN (data path, offer, sections committed before)
//! data path: see there; TCP's is
//!   JOIN (token, lane)                   ──▶
//!                                        ◀──    WELCOME
//!   CHUNK, PACKED, ZERO ...              ──▶
//! control stream, meanwhile
//!   BARRIER (marks)                      ──▶    waits for the marks
//!                                        ◀──    PASSED
//!   SECTION (number, lane, mark, digest) ──▶    waits for the mark, computes the digest, writes it down
//!                                        ◀──    COMMITTED (same, or differs)
//!   COMMIT (digest)                      ──▶    every section is committed
//!                                        ◀──    CONFIRM (digest)
//! ```
//!
//! | the receiver is | on | does | and is then |
//! |---|---|---|---|
//! | waiting | HELLO | asks whether this migration may arrive; WELCOME | greeted |
//! | greeted | LAYOUT | opens or makes the files, reads the ledger; PLAN | open |
//! | greeted | IMAGE | opens the memory that becomes the image; WELCOME; applies what comes; PASSED | through |
//! | open | BARRIER, SECTION, PING | answers | open |
//! | open | COMMIT | looks that nothing is missing; CONFIRM | through |
//! | open | CANCEL | keeps what is committed | closed |
//! | any | anything else, an error, the stream's end, silence | REFUSE if it can | closed |
//!
//! *Who talks.* The sender asks, the receiver answers each message but CANCEL once, in order. Instead of any answer it
//! may send REFUSE, and then closes. A sender that has nothing to ask sends PING every 5 s; what says nothing
//! for 30 s is gone. Data streams may be silent as long as the control stream is not.
//!
//! *Passes.* Memory begins as zeros at the receiver, so pages of zeros are left out until something else was sent for
//! them. A page may be sent again, and the later one wins: on one lane by itself, on different lanes when there was a
//! BARRIER in between. A barrier lists each lane's mark ([`crate::transport::Lane::mark`]), and is passed when all
//! have arrived. Nothing may be sent for a section that is committed.
//!
//! *Sections.* The digest of a section is BLAKE3 over its pages' hashes ([`crate::page_hashes`]), which the receiver
//! computes from its own memory after the bytes have landed there. When it differs from the sender's, the
//! receiver makes the section zero again, and the sender sends it once more; the third time it gives up. The digest of the
//! whole copy is BLAKE3 over the objects as LAYOUT lists them and the digests of all sections in order.
//!
//! *Resuming.* The receiver writes each committed section's digest into a ledger. When anything breaks, the
//! sender begins again from HELLO; PLAN says which sections are there. Of these it sends SECTION without bytes before:
//! the memory may have been captured anew since, and then the digest differs. Sections that were not committed begin
//! from zeros. After CONFIRM was sent and lost, the same way leads to the same CONFIRM, and needs no bytes: a sender that has only
//! hashes left gives up when a section is missing.
//!
//! *Growing.* LAYOUT may have more objects than the one before, behind those: what is committed of these stays. So RAM may come alone,
//! while it is taken, and the device state, which there is only then, later.
//!
//! # Image
//! What makes a destination's memory its source's ([`image`]) goes over the control stream itself. It is no copy: only what changed since the
//! twin was taken, and it has no sections, no ledger and nothing to resume; after a break it is sent anew from its beginning.
//!
//! ```text
//! sender                                        receiver
//!   HELLO (version, migration)           ──▶
//!                                        ◀──    WELCOME
//!   IMAGE (ahead or last)                ──▶    opens the destination's memory
//!                                        ◀──    WELCOME
//!   image diff, to its END               ──▶    applies piece by piece, each by its own hash
//!   device state's length (8), bytes,    ──▶
//!   BLAKE3 of them (32)
//!                                        ◀──    PASSED
//! ```
//!
//! What goes *ahead* is sent while the source runs, and has a device state of no bytes; the *last* image has one. These bytes have no heads
//! of messages around them: the [image diff](crate::image_diff) says itself where it ends. A sender that says nothing for two minutes
//! is gone. A REFUSE may come instead of PASSED
//! at any time, and the stream's end.
//!
//! # Messages
//! All numbers are little-endian. Every message begins with a head of 8 bytes:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | type; zero is invalid |
//! | 4 | 4 | length of what follows the head |
//!
//! | type | message | length | what follows |
//! |---|---|---|---|
//! | 1 | HELLO | 13 to 138 | magic `TIDEGATE` (8), version (2), migration id's length (2) and id, 1 to 126 bytes |
//! | 2 | WELCOME | 0 | |
//! | 3 | REFUSE | 1 to 4096 | reason, UTF-8 |
//! | 4 | VERSIONS | 4 to 34 | number of versions, 1 to 16 (2); each version (2) |
//! | 5 | LAYOUT | to 32768 | number of objects, 1 to 256 (4); each: kind (1), name's length (2) and name, size (8). Number of data paths, 1 to 8 (4); each: name's length (2) and name, 1 to 64 bytes; the best first |
//! | 6 | PLAN | to 135180 | index of the data path (4), offer's length, 0 to 4096 (4), offer; number of sections (4), one bit each, the first lowest: committed |
//! | 7 | BARRIER | 12 to 516 | number of lanes, 1 to 64 (4); each mark (8) |
//! | 8 | PASSED | 0 | |
//! | 9 | SECTION | 48 | number (4), lane (4), mark (8), digest (32) |
//! | 10 | COMMITTED | 40 | number (4), 1 same or 2 differs (4), digest of what is there (32) |
//! | 11 | COMMIT | 32 | digest |
//! | 12 | CONFIRM | 32 | digest |
//! | 13 | PING | 0 | |
//! | 14 | PONG | 0 | |
//! | 15 | CANCEL | 1 to 4096 | reason, UTF-8 |
//! | 16 | JOIN | 32 | magic `TIDEGATE` (8), version (2), zero (2), lane (4), token (16) |
//! | 17 | CHUNK | 17 to 16 + 1 MiB | object's index (4), zero (4), offset (8), bytes |
//! | 18 | PACKED | 17 to 16 + 1 MiB | object's index (4), length of the bytes, 1 to 1 MiB (4), offset (8), LZ4 block of them |
//! | 19 | ZERO | 24 | object's index (4), zero (4), offset (8), length, 1 to 1 MiB (8) |
//! | 20 | IMAGE | 1 | 0 ahead or 1 last |
//!
//! HELLO's and VERSIONS' layouts are the same in all versions. Types 16 to 19 go over data streams only, the others
//! over the control stream, WELCOME and REFUSE over both.
//!
//! Object kinds: 1 RAM, 2 device state, 3 region (the only one with a name, of 1 to 64 bytes), 4 diff, 5 diff of a dry run. A size is
//! 1 byte to 16 TiB, all objects have at most 2^20 sections. No object appears twice. An object's sections start at
//! multiples of 64 MiB, and are numbered through all objects. What a CHUNK, PACKED or ZERO is for starts at
//! a page (4096 bytes), ends at a page or the object's end, and lies in one section.

pub mod controls;
pub mod ground;
pub mod image;
pub mod layout;
mod ledger;
pub mod message;
pub mod receive;
pub mod send;
pub mod window;

use std::time::Duration;

pub use controls::Controls;
pub use layout::{Layout, SECTION_BYTES, Section};
pub use receive::{Landing, Place, Received, Receiver};
pub use send::{Progress, Sending, Sent, Source, Stretch};
pub use window::Window;

/// The only version there is.
pub const VERSION: u16 = 3;
/// Longest migration id.
pub const MAX_ID_BYTES: usize = 126;
/// A peer that says nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(30);
/// A sender that has nothing to ask says so this often.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// Most sections of a copy: 64 TiB.
pub const MAX_SECTIONS: u32 = 1 << 20;
/// Most lanes of a data path.
pub const MAX_LANES: usize = 64;

#[cfg(test)]
mod tests;
