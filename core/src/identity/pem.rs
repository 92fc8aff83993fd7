//! Writing PEM (RFC 7468). It is read with `rustls_pki_types`.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Appends one section: `der` under `label`, 64 characters a line.
pub fn write(text: &mut String, label: &str, der: &[u8]) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
}
