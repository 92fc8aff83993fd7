//! Which fields a request's head has, of those that are looked for in every request.

use http::{HeaderMap, header};

/// One pass over the names is cheaper than a search for each of these: most requests have none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Present {
    /// Some that are of one connection only.
    pub of_one_connection: bool,
    /// `forwarded` or any `x-forwarded-*`.
    pub forwarded: bool,
    /// `baggage`.
    pub baggage: bool,
    /// More than one `cookie`.
    pub crumbs: bool,
    /// `x-tombolo-timeout` or `grpc-timeout`.
    pub timeout: bool,
}

impl Present {
    /// Looks through the names.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            // By length first, which tells most others apart.
            match name.len() {
                2 => present.of_one_connection |= name == "te",
                7 => {
                    present.of_one_connection |= name == "upgrade";
                    present.baggage |= name == "baggage";
                }
                9 => present.forwarded |= name == "forwarded",
                10 => present.of_one_connection |= name == "connection" || name == "keep-alive",
                12 => present.timeout |= name == "grpc-timeout",
                14 => present.of_one_connection |= name == "http2-settings",
                16 => present.of_one_connection |= name == "proxy-connection",
                17 => present.timeout |= name == "x-tombolo-timeout",
                _ => {}
            }
            present.forwarded |= name.starts_with("x-forwarded-");
        }
        // A name comes once, with however many values.
        present.crumbs =
            headers.len() != headers.keys_len() && headers.get_all(header::COOKIE).iter().nth(1).is_some();
        present
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn every_name_sets_its_flag_and_no_other() {
        let none = Present::default();
        let one = Present { of_one_connection: true, ..none };
        let forwarded = Present { forwarded: true, ..none };
        let timeout = Present { timeout: true, ..none };
        for (name, expected) in [
            ("te", one),
            ("upgrade", one),
            ("connection", one),
            ("keep-alive", one),
            ("http2-settings", one),
            ("proxy-connection", one),
            ("forwarded", forwarded),
            ("x-forwarded-for", forwarded),
            ("x-forwarded-client-cert", forwarded),
            ("baggage", Present { baggage: true, ..none }),
            ("grpc-timeout", timeout),
            ("x-tombolo-timeout", timeout),
            ("cookie", none),
            ("host", none),
            ("x-forwarded", none),
        ] {
            let headers: HeaderMap =
                [(HeaderName::from_static(name), HeaderValue::from_static("x"))].into_iter().collect();
            assert_eq!(Present::of(&headers), expected, "{name}");
        }
    }

    #[test]
    fn only_several_cookies_are_crumbs() {
        let mut headers = HeaderMap::new();
        headers.append("accept", HeaderValue::from_static("a"));
        headers.append("accept", HeaderValue::from_static("b"));
        headers.append("cookie", HeaderValue::from_static("a=1"));
        assert!(!Present::of(&headers).crumbs);
        headers.append("cookie", HeaderValue::from_static("b=1"));
        assert!(Present::of(&headers).crumbs);
    }
}
