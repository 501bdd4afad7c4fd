//! A guest without an operating system: it writes into all its memory once, says so, and from then on rewrites a part of it
//! forever, as fast as it can.
//!
//! Round after round it writes the round's number to the start of each page of that part, page by page. So there is
//! exactly one kind of memory it ever has: the first pages have a number, all others the one before.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const PAGE_BYTES: u64 = 4096;
/// Where the kernel is loaded.
const LOADED_AT: u32 = 1 << 20;
/// Where it writes from.
pub(crate) const WRITES_FROM: u32 = 16 << 20;
const READY: u8 = b'R';
const BOOT: Duration = Duration::from_secs(60);

/// What it does.
#[derive(Clone, Copy)]
pub(crate) struct Rewriter {
    pub(crate) memory_mib: u32,
    /// How much of that it rewrites.
    pub(crate) rewritten_mib: u32,
}

impl Rewriter {
    fn rewritten_pages(self) -> u32 {
        self.rewritten_mib << 8
    }

    /// A Multiboot kernel (Multiboot Specification 0.6.96, section 3.1): 32-bit, without paging.
    pub(crate) fn kernel(self) -> Vec<u8> {
        let all_pages = (self.memory_mib << 8) - (WRITES_FROM >> 12);
        let mut code = Code::default();
        code.put(&[0xb8]).number(1); // mov eax, 1
        code.write_pages(all_pages);
        code.put(&[0xba]).number(0x3f8).put(&[0xb0, READY, 0xee]); // mov edx, 0x3f8; mov al, READY; out dx, al
        code.put(&[0xb8]).number(2); // mov eax, 2
        let round = code.0.len();
        code.write_pages(self.rewritten_pages());
        code.put(&[0x40, 0xeb]); // inc eax; jmp round
        let back = round as i64 - (code.0.len() as i64 + 1);
        code.put(&[i8::try_from(back).expect("short") as u8]);

        const MAGIC: u32 = 0x1bad_b002;
        const ADDRESSES_ARE_HERE: u32 = 1 << 16;
        const HEADER_BYTES: u32 = 32;
        let end = LOADED_AT + HEADER_BYTES + code.0.len() as u32;
        let checksum = 0_u32.wrapping_sub(MAGIC.wrapping_add(ADDRESSES_ARE_HERE));
        let entry = LOADED_AT + HEADER_BYTES;
        let header = [MAGIC, ADDRESSES_ARE_HERE, checksum, LOADED_AT, LOADED_AT, end, end, entry];
        let mut kernel: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        kernel.extend(code.0);
        kernel
    }

    /// How far it is in a copy of its memory: round and page. Panics when the copy is of no single instant.
    pub(crate) fn progress(self, ram: &Path) -> (u32, u32) {
        let ram = fs::read(ram).expect("ram");
        let number = |page: u64| {
            let at = (u64::from(WRITES_FROM) + page * PAGE_BYTES) as usize;
            u32::from_le_bytes(ram[at..at + 4].try_into().expect("four"))
        };
        let pages = u64::from(self.rewritten_pages());
        let before = number(pages - 1);
        let written = (0..pages).take_while(|page| number(*page) == before + 1).count() as u64;
        let torn = (written..pages).find(|page| number(*page) != before);
        assert_eq!(torn, None, "page with another number than {before}, after {written} written");
        (before + 1, written as u32)
    }
}

/// Wait until the guest with this console has written everything once.
pub(crate) async fn ready(console: &str) {
    let until = Instant::now() + BOOT;
    while !fs::read(console).unwrap_or_default().contains(&READY) {
        assert!(Instant::now() < until, "it does not come up: {console}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn number(&mut self, number: u32) -> &mut Self {
        self.put(&number.to_le_bytes())
    }

    /// Write eax to so many pages.
    fn write_pages(&mut self, pages: u32) {
        self.put(&[0xbf]).number(WRITES_FROM); // mov edi, WRITES_FROM
        self.put(&[0xb9]).number(pages); // mov ecx, pages
        self.put(&[0x89, 0x07]); // page: mov [edi], eax
        self.put(&[0x81, 0xc7]).number(PAGE_BYTES as u32); // add edi, 4096
        self.put(&[0x49, 0x75, 0xf5]); // dec ecx; jnz page
    }
}
