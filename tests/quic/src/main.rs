//! `tidegate-quic`: a QUIC service that says who serves, and a client that asks it again and again over one connection.
//!
//! Key and certificate are in the source tree: they are for tests, and keep nothing secret.
#![forbid(unsafe_code)]

use std::{
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use anyhow::Context as _;
use clap::Parser;
use quinn::{
    ClientConfig, Connection, Endpoint, Incoming, ServerConfig,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const CERTIFICATE: &[u8] = include_bytes!("certificate.der");
const KEY: &[u8] = include_bytes!("key.der");
/// Whom the certificate names.
const SERVER_NAME: &str = "tidegate.test";
/// Bytes of a question or an answer.
const MOST: usize = 64;

/// A QUIC service that says who serves, and its client.
#[derive(Parser)]
#[command(name = "tidegate-quic", version)]
enum Order {
    /// Answer every question with NAME, at UDP port 443.
    Serve {
        /// Who serves.
        name: String,
    },
    /// Ask once for each line of standard input, all over one connection, and print the answers. The line `move` asks from
    /// another port first, as a client does whose network changes (RFC 9000, section 9.2).
    Ask {
        /// The service's address and port.
        service: SocketAddr,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Order::parse() {
        Order::Serve { name } => serve(name).await,
        Order::Ask { service } => ask(service).await,
    }
}

async fn serve(name: String) -> anyhow::Result<()> {
    let (certificate, key) = (CertificateDer::from(CERTIFICATE), PrivatePkcs8KeyDer::from(KEY));
    let config = ServerConfig::with_single_cert(vec![certificate], key.into())?;
    let endpoint = Endpoint::server(config, (Ipv6Addr::UNSPECIFIED, 443).into())?;
    let name: Arc<str> = name.into();
    while let Some(incoming) = endpoint.accept().await {
        let name = Arc::clone(&name);
        tokio::spawn(async move {
            if let Err(error) = answer(incoming, &name).await {
                eprintln!("tidegate-quic: a connection ended: {error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(incoming: Incoming, name: &str) -> anyhow::Result<()> {
    let connection = incoming.await?;
    loop {
        let (mut to, mut from) = connection.accept_bi().await?;
        from.read_to_end(MOST).await?;
        to.write_all(name.as_bytes()).await?;
        to.finish()?;
    }
}

async fn ask(service: SocketAddr) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE))?;
    let mut endpoint = Endpoint::client(anywhere(service))?;
    endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
    let connection = endpoint.connect(service, SERVER_NAME)?.await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if line == "move" {
            endpoint.rebind(UdpSocket::bind(anywhere(service))?)?;
        }
        println!("{}", question(&connection).await?);
    }
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn question(connection: &Connection) -> anyhow::Result<String> {
    let (mut to, mut from) = connection.open_bi().await?;
    to.write_all(b"who?").await?;
    to.finish()?;
    let answer = from.read_to_end(MOST).await?;
    String::from_utf8(answer).context("the answer is no text")
}

/// Any port of this machine, in the family of `service`.
fn anywhere(service: SocketAddr) -> SocketAddr {
    match service {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
