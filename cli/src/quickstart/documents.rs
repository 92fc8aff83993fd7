//! What the two clusters are configured with. `deploy/examples` shows the same documents to read.

use crate::failure::Failure;

/// The public host name.
pub const HOST: &str = "shop.example.test";

const EAST: &str = include_str!("documents/east.yaml");
const WEST: &str = include_str!("documents/west.yaml");
const COMMON: &str = include_str!("documents/common.yaml");

/// The public certificate of a gateway and the root that vouches for it.
pub struct PublicCertificate {
    root: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl PublicCertificate {
    /// A fresh root.
    pub fn new() -> Result<Self, Failure> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Tombolo quickstart");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().map_err(failure)?;
        Ok(Self { root: rcgen::CertifiedIssuer::self_signed(params, key).map_err(failure)? })
    }

    /// The root, for clients.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// The root, for clients.
    pub fn root_der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.root.der().clone()
    }

    /// The Secret that a Gateway's listener names.
    fn secret(&self) -> Result<String, Failure> {
        let key = rcgen::KeyPair::generate().map_err(failure)?;
        let params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).map_err(failure)?;
        let leaf = params.signed_by(&key, &self.root).map_err(failure)?;
        let indent = |pem: String| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        Ok(format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: public-certificate, namespace: shop }}\n\
             type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(leaf.pem()),
            indent(key.serialize_pem())
        ))
    }
}

fn failure(error: rcgen::Error) -> Failure {
    Failure::new(format!("cannot make the public certificate: {error}"))
}

/// All documents of `east` or `west`.
pub fn of_cluster(cluster: &str, certificate: &PublicCertificate) -> Result<String, Failure> {
    let own = if cluster == "east" { EAST } else { WEST };
    Ok(format!("{COMMON}{own}{}", certificate.secret()?))
}

/// The gray release of the storefront with so many percent on v2.
pub fn release(percent: u32) -> String {
    let marker = "weights: { v2: 20 }";
    let start = EAST.find("# -- the gray release").unwrap_or(0);
    let end = EAST[start..].find("# --- end").map_or(EAST.len(), |length| start + length);
    EAST[start..end].replace(marker, &format!("weights: {{ v2: {percent} }}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::{decide, resources};

    #[test]
    fn every_document_is_accepted() {
        let certificate = PublicCertificate::new().expect("certificate");
        for cluster in ["east", "west"] {
            let text = of_cluster(cluster, &certificate).expect("documents");
            let parsed = resources::parse(&[resources::Source { name: cluster.into(), text }]);
            assert_eq!(
                parsed.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
                Vec::<String>::new()
            );
            let compiled = decide::compile(&parsed.resources);
            let report = resources::report(&parsed, &compiled.status);
            assert!(report.is_clean(), "{report}");
        }
    }

    #[test]
    fn the_release_is_cut_out_whole_and_changed() {
        let text = release(40);
        assert!(text.contains("kind: GrayRelease") && text.contains("v2: 40"), "{text}");
        let parsed = resources::parse(&[resources::Source { name: "release".into(), text }]);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        assert_eq!(parsed.resources.gray_releases.len(), 1);
    }
}
