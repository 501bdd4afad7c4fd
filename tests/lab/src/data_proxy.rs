//! A proxy in front of a host's data endpoint that counts the bytes hosts send each other.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::Context as _;

const BUFFER_BYTES: usize = 256 * 1024;

/// A running proxy; it takes no more connections once dropped.
pub struct DataProxy {
    address: SocketAddr,
    carried_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DataProxy {
    /// Listen on a port of its own, and pass every connection on to `to`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the data proxy")?;
        let address = listener.local_addr()?;
        let carried_bytes = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counter, stopping) = (Arc::clone(&carried_bytes), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let counter = Arc::clone(&counter);
                // Whatever breaks a connection shows at its ends, which are closed.
                thread::spawn(move || drop(connection(&client, to, &counter)));
            }
        });
        Ok(Self { address, carried_bytes, stop, thread: Some(thread) })
    }

    /// What hosts are to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes sent so far by those who connected.
    #[must_use]
    pub fn carried_bytes(&self) -> u64 {
        self.carried_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for DataProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it; if that fails it has ended already.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carry bytes both ways until both ends have closed; those of the client are counted.
fn connection(client: &TcpStream, to: SocketAddr, counter: &AtomicU64) -> io::Result<()> {
    let host = TcpStream::connect(to)?;
    for end in [client, &host] {
        end.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| carry(&host, client, &AtomicU64::new(0)));
        carry(client, &host, counter);
    });
    Ok(())
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, counter: &AtomicU64) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut carry = || -> io::Result<()> {
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&buffer[..count])?;
            // Only the number matters.
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
    };
    if carry().is_err() {
        // Neither end must wait for the other; one of them is closed already.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_sent_and_not_what_is_answered() {
        let service = TcpListener::bind("127.0.0.1:0").expect("listen");
        let proxy = DataProxy::start(service.local_addr().expect("address")).expect("start");
        let answering = thread::spawn(move || {
            let (mut stream, _) = service.accept().expect("a connection");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("all of it");
            stream.write_all(b"thanks").expect("answer");
            received
        });
        let mut stream = TcpStream::connect(proxy.address()).expect("connect");
        stream.write_all(&[7; 100_000]).expect("send");
        stream.shutdown(Shutdown::Write).expect("close");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert_eq!(answer, "thanks");
        assert_eq!(answering.join().expect("ended"), [7; 100_000]);
        assert_eq!(proxy.carried_bytes(), 100_000);
    }
}
