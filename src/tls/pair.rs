//! A certificate chain and its private key, read from two files and checked: what would
//! fail in each client's face is told here, with the file and what to do.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    Error as RustlsError,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use secrecy::zeroize::Zeroizing;
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

use crate::config::{files::read_at_most, server::Tls as Files};

/// More than any chain or key.
const MOST: usize = 1 << 20;

/// A chain and its key that belong together and are valid now.
pub struct Pair {
    pub(super) certified: CertifiedKey,
    /// When the server's own certificate ends.
    pub(super) expires: SystemTime,
    /// Of what the two files hold.
    pub(super) fingerprint: [u8; 32],
}

/// Why a pair can't be used. It never repeats what a file holds.
#[derive(Debug, thiserror::Error)]
#[error("{}: {flaw}", file.display())]
pub struct PairError {
    /// The setting that names the file.
    pub setting: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, and what to do.
    pub flaw: Flaw,
}

/// What is wrong with a certificate's or a key's file.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// It can't be read.
    #[error("can't be read: {0}; see that it exists and that the gateway's user may read it")]
    Unreadable(#[source] io::Error),
    /// It is no file of that kind.
    #[error("is larger than 1 MiB, so it isn't a certificate or a key in PEM; name the right file")]
    TooLarge,
    /// A block of PEM is broken.
    #[error("isn't good PEM (RFC 7468); copy the file again, whole")]
    Pem,
    /// No block is a certificate.
    #[error(
        "holds no certificate; write the server's own in PEM (`-----BEGIN CERTIFICATE-----`), and behind it those that lead to the root"
    )]
    NoCertificate,
    /// One of the blocks is no certificate, from 1.
    #[error("its certificate {0} can't be understood; copy the file again, whole")]
    Certificate(usize),
    /// Another certificate than the server's stands first.
    #[error(
        "its certificate 2 didn't issue its certificate 1; put the server's own first, then its issuer's, and so on"
    )]
    Order,
    /// The server's certificate is over.
    #[error("its certificate ended {}; renew it", httpdate::fmt_http_date(*.0))]
    Expired(SystemTime),
    /// The server's certificate hasn't begun.
    #[error(
        "its certificate begins {}; wait for that, or correct this machine's clock",
        httpdate::fmt_http_date(*.0)
    )]
    NotYetValid(SystemTime),
    /// Clients look at nothing else (RFC 9525 §6.3).
    #[error(
        "its certificate has no subjectAltName with a host or an address, so every client refuses it; have one issued for the gateway's names"
    )]
    Nameless,
    /// No block is a private key.
    #[error(
        "holds no private key; write it in PEM: PKCS#8 (`-----BEGIN PRIVATE KEY-----`), PKCS#1 or SEC1"
    )]
    NoKey,
    /// Nobody is there to type a password.
    #[error(
        "its private key is encrypted; decrypt it with `openssl pkey -in OLD -out NEW`, and let only the gateway's user read that"
    )]
    Encrypted,
    /// The key is of a kind or size that TLS can't use.
    #[error(
        "its private key can't be used; make one of RSA with 2048 bits or more, ECDSA with P-256 or P-384, or Ed25519"
    )]
    Key,
    /// Key and certificate are strangers.
    #[error(
        "its private key isn't that of the first certificate in server.tls.cert_file; name the two that were made together"
    )]
    Strangers,
}

impl Pair {
    /// Reads both files and checks them for `now`.
    ///
    /// # Errors
    /// The first thing that is wrong with either.
    pub fn read(
        files: &Files,
        provider: &CryptoProvider,
        now: SystemTime,
    ) -> Result<Self, PairError> {
        let of_certificate = |flaw| PairError {
            setting: "server.tls.cert_file",
            file: files.cert_file.clone(),
            flaw,
        };
        let of_key = |flaw| PairError {
            setting: "server.tls.key_file",
            file: files.key_file.clone(),
            flaw,
        };
        let text = read(&files.cert_file).map_err(of_certificate)?;
        let chain = chain(&text).map_err(of_certificate)?;
        let expires = check(&chain, now).map_err(of_certificate)?;
        let key_text = Zeroizing::new(read(&files.key_file).map_err(of_key)?);
        let key = key(&key_text).map_err(of_key)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            of_key(match error {
                RustlsError::InconsistentKeys(_) => Flaw::Strangers,
                _ => Flaw::Key,
            })
        })?;
        let mut digest = Context::new(&SHA256);
        digest.update(&(text.len() as u64).to_be_bytes());
        digest.update(&text);
        digest.update(&key_text);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.finish().as_ref());
        Ok(Self {
            certified,
            expires,
            fingerprint,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Flaw> {
    let bytes = read_at_most(path, MOST).map_err(Flaw::Unreadable)?;
    if bytes.len() > MOST {
        return Err(Flaw::TooLarge);
    }
    Ok(bytes)
}

fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Flaw> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|_| Flaw::Pem)?;
    if chain.is_empty() {
        return Err(Flaw::NoCertificate);
    }
    Ok(chain)
}

/// Gives back when the first one ends.
fn check(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<SystemTime, Flaw> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (at, der) in chain.iter().enumerate() {
        match parse_x509_certificate(der) {
            Ok(([], certificate)) => parsed.push(certificate),
            _ => return Err(Flaw::Certificate(at + 1)),
        }
    }
    let own = parsed.first().ok_or(Flaw::NoCertificate)?;
    if let Some(issuer) = parsed.get(1)
        && issuer.subject().as_raw() != own.issuer().as_raw()
    {
        return Err(Flaw::Order);
    }
    let (begins, ends) = (
        moment(own.validity().not_before.timestamp()),
        moment(own.validity().not_after.timestamp()),
    );
    if now < begins {
        return Err(Flaw::NotYetValid(begins));
    }
    if now >= ends {
        return Err(Flaw::Expired(ends));
    }
    if !is_named(own) {
        return Err(Flaw::Nameless);
    }
    Ok(ends)
}

fn moment(seconds: i64) -> SystemTime {
    // httpdate knows no years beyond 9999, and no certificate of today is older than 1970.
    const LAST: u64 = 253_402_300_799;
    let since = u64::try_from(seconds).unwrap_or(0).min(LAST);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since)
}

fn is_named(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let is_host = |name: &GeneralName<'_>| {
        matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))
    };
    names.value.general_names.iter().any(is_host)
}

fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, Flaw> {
    use rustls::pki_types::pem::Error;
    // PKCS#8's own kind of block, and the header of the older forms (RFC 1421 §4.6.1.1).
    let is_encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| memchr::memmem::find(text, mark).is_some());
    if is_encrypted {
        return Err(Flaw::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        Error::NoItemsFound => Flaw::NoKey,
        _ => Flaw::Pem,
    })
}
