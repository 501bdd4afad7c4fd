//! An authority of one's own with a certificate, for tests and measurements.

use std::{
    fs::write,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Make an authority of this name and a certificate from it for these addresses: PEM files of certificate, key and authority.
pub(crate) fn make(dir: &Path, authority: &str, addresses: &[&str]) -> [PathBuf; 3] {
    let path = |name: &str| dir.join(format!("{authority}-{name}.pem"));
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, authority);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key"));
    let issuer = issuer.expect("authority");
    let key = KeyPair::generate().expect("key");
    let addresses: Vec<String> = addresses.iter().map(|it| (*it).to_owned()).collect();
    let params = CertificateParams::new(addresses).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("certificate");
    let files = [path("certificate"), path("key"), path("ca")];
    let contents = [certificate.pem(), key.serialize_pem(), issuer.as_ref().pem()];
    for (file, content) in files.iter().zip(contents) {
        write(file, content).expect("write");
    }
    files
}
