//! The syntax of an authority, as it stands in Host and in an absolute target.

/// True for `uri-host [ ":" port ]` (RFC 9110 section 7.2), not empty, without user information.
pub(super) fn is_host(authority: &[u8]) -> bool {
    let (host, port) = match authority.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|b| *b == b']').and_then(|end| rest.split_at_checked(end)) {
            Some((address, rest)) if is_v6(address) => (address, rest.get(1..).unwrap_or_default()),
            _ => return false,
        },
        None => {
            let end = authority.iter().position(|b| *b == b':').unwrap_or(authority.len());
            match authority.split_at_checked(end) {
                Some((name, rest)) if name.iter().all(|b| is_name_byte(*b)) => (name, rest),
                _ => return false,
            }
        }
    };
    !host.is_empty() && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port))
}

fn is_v6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// 1 to 65535. A colon without a port is allowed by the grammar, and read differently by those who compare texts.
fn is_port(digits: &[u8]) -> bool {
    let value = digits.iter().try_fold(0_u32, |value, b| {
        b.is_ascii_digit().then(|| value.saturating_mul(10).saturating_add(u32::from(b - b'0')))
    });
    !digits.is_empty() && matches!(value, Some(1..=65535))
}

/// Of `reg-name` (RFC 3986 section 3.2.2) what names in DNS and in practice are made of. A comma is a list to some, and
/// percent signs are decoded by some.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}
