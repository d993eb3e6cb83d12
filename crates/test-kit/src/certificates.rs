//! Certificates for tests of TLS.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::path::Path;

/// Signs certificates.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one, that nobody knows.
    pub fn new() -> Self {
        let key = key();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "a CA of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .unwrap_or_else(|error| panic!("cannot make a CA: {error}"));
        Self {
            certificate: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for servers and clients of these names or addresses, valid until the end of a year.
    pub fn issue(&self, names: &[&str], last_year: i32) -> Identity {
        let key = key();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap_or_else(|error| panic!("bad names: {error}"));
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 12, 31);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .unwrap_or_else(|error| panic!("cannot sign: {error}"));
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes what a client needs, by the names that `docker` gives it: its own certificate for trust, and an identity.
    pub fn write(&self, dir: &Path, identity: &Identity) {
        let files = [
            ("ca.pem", self.certificate()),
            ("cert.pem", &identity.certificate),
            ("key.pem", &identity.key),
        ];
        for (name, text) in files {
            std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::write(dir.join(name), text))
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", dir.join(name).display()));
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap_or_else(|error| panic!("cannot make a key: {error}"))
}
