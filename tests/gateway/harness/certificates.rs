//! An authority, certificates by it, and clients that believe it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Bytes, over TLS or not.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

const DAY: Duration = Duration::from_secs(24 * 3600);

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The one of all tests.
pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "An authority for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// For this machine, from a day before to a day behind now.
    pub fn issue(&self) -> Pair {
        let now = SystemTime::now();
        self.issue_for(&["localhost", "127.0.0.1"], now - DAY, now + DAY)
    }

    pub fn issue_for(&self, names: &[&str], begins: SystemTime, ends: SystemTime) -> Pair {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = begins.into();
        params.not_after = ends.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Pair {
    /// As `tls.crt` and `tls.key` of a directory.
    pub fn write(&self, dir: &Path) {
        fs::write(dir.join("tls.crt"), &self.certificate).unwrap();
        fs::write(dir.join("tls.key"), &self.key).unwrap();
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// A client's settings that believe the authority, with that ALPN.
pub fn client(alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(AUTHORITY.pem.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

/// A connection over TLS.
pub async fn connect(
    at: SocketAddr,
    config: impl Into<Arc<ClientConfig>>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(at).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config.into())
        .connect(name, socket)
        .await
}
