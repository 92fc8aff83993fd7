//! Compression of responses: what may be compressed, by which coding, and doing it part by part.

use std::{
    io::{self, Write},
    sync::Mutex,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::decide::{Coding, Compression};

/// A middle way between time and size: what servers use for contents made on the fly.
const GZIP_LEVEL: u32 = 5;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Brotli looks back over 2 to this many bytes: half a megabyte for each response on its way.
const BROTLI_WINDOW: u32 = 19;

/// Never compressed, whatever a policy says: their parts have to arrive one by one, or are compressed by themselves.
const NEVER: &[&str] = &["text/event-stream", "application/grpc", "application/connect", "multipart/"];

/// What of a request decides over compression; kept as its head changes on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub coding: Option<Coding>,
}

impl Wish {
    /// The coding that the client likes best; of equals, the policy's first. A HEAD gets none, as there is
    /// nothing to do, and HTTP/1.0 knows no chunks.
    pub fn of(request: &RequestHeader, compression: &Compression) -> Self {
        let unwanted = request.method == Method::HEAD
            || request.version < Version::HTTP_11
            || has_token(&request.headers, header::CACHE_CONTROL, "no-transform");
        let coding = (!unwanted).then(|| negotiate(&request.headers, &compression.algorithms)).flatten();
        Self { coding }
    }
}

/// Thousandths of the weight of the best coding (RFC 9110 section 12.5.3).
fn negotiate(headers: &HeaderMap, algorithms: &[Coding]) -> Option<Coding> {
    let accepted: Vec<(&str, u16)> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(accepted)
        .collect();
    let weight = |coding: &Coding| {
        let of = |name: &str| accepted.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, q)| *q);
        of(coding.name()).or_else(|| of("*")).unwrap_or(0)
    };
    let mut best: Option<(Coding, u16)> = None;
    for coding in algorithms {
        let weight = weight(coding);
        if weight > best.map_or(0, |(_, most)| most) {
            best = Some((*coding, weight));
        }
    }
    best.map(|(coding, _)| coding)
}

/// A coding with its weight in thousandths. What is not understood is not accepted.
fn accepted(part: &str) -> Option<(&str, u16)> {
    let mut parts = part.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = match parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q="))) {
        None => 1000,
        Some(text) => {
            let weight: f32 = text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
            (weight * 1000.0) as u16
        }
    };
    Some((name, weight))
}

/// Begins to compress a response, if it may be and the client wants it; changes its head accordingly.
pub(super) fn begin(
    response: &mut ResponseHeader,
    compression: &Compression,
    wish: Wish,
) -> pingora_error::Result<Option<Encoder>> {
    if !is_eligible(response, compression) {
        return Ok(None);
    }
    // Also where it is not compressed: caches have to know that others get something else.
    if !has_token(&response.headers, header::VARY, "accept-encoding")
        && !has_token(&response.headers, header::VARY, "*")
    {
        response.append_header(header::VARY, "accept-encoding")?;
    }
    let Some(coding) = wish.coding else { return Ok(None) };
    let streamed = response.headers.get(header::CONTENT_LENGTH).is_none();
    let Ok(encoder) = Encoder::new(coding, streamed) else { return Ok(None) };
    response.insert_header(header::CONTENT_ENCODING, coding.name())?;
    if response.remove_header(&header::CONTENT_LENGTH).is_some() {
        // The engine takes it off again where HTTP/2 is spoken.
        response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    // A range of the compressed contents cannot be asked for, as they are not the same each time.
    response.remove_header(&header::ACCEPT_RANGES);
    let strong =
        response.headers.get(header::ETAG).map(HeaderValue::as_bytes).filter(|tag| !tag.starts_with(b"W/"));
    if let Some(Ok(weak)) = strong.map(|tag| HeaderValue::from_bytes(&[b"W/", tag].concat())) {
        response.insert_header(header::ETAG, weak)?;
    }
    Ok(Some(encoder))
}

fn is_eligible(response: &ResponseHeader, compression: &Compression) -> bool {
    let headers = &response.headers;
    let status = response.status;
    let has_body = !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        );
    let length: Option<u64> =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let is_coded = [header::CONTENT_ENCODING.as_str(), "content-digest", "digest", "content-range"]
        .into_iter()
        .any(|name| headers.contains_key(name));
    has_body
        && !is_coded
        && length.is_none_or(|length| length >= compression.min_bytes.max(1))
        && !has_token(headers, header::CACHE_CONTROL, "no-transform")
        && headers.get(header::CONTENT_TYPE).is_some_and(|value| is_listed(value, &compression.content_types))
}

fn is_listed(content_type: &HeaderValue, listed: &[Box<str>]) -> bool {
    let Ok(text) = content_type.to_str() else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fits = |pattern: &str| essence == pattern || (pattern.ends_with('/') && essence.starts_with(pattern));
    !NEVER.iter().any(|never| essence.starts_with(never)) && listed.iter().any(|pattern| fits(pattern))
}

/// True if a list of tokens has this one, in any case.
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tokens.any(|text| text.trim().eq_ignore_ascii_case(token))
}

/// A response that is being compressed.
pub(super) struct Encoder {
    // Only ever taken out by `get_mut`: it makes `Sync` what is not.
    stream: Mutex<Stream>,
    /// Each part is passed on as it comes.
    streamed: bool,
}

enum Stream {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Done,
}

impl Encoder {
    fn new(coding: Coding, streamed: bool) -> io::Result<Self> {
        let stream = match coding {
            Coding::Gzip => {
                Stream::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))
            }
            Coding::Brotli => {
                let writer = brotli::CompressorWriter::new(Vec::new(), 4096, BROTLI_LEVEL, BROTLI_WINDOW);
                Stream::Brotli(Box::new(writer))
            }
            Coding::Zstd => Stream::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
        };
        Ok(Self { stream: Mutex::new(stream), streamed })
    }

    /// Puts the compressed form in the place of a part; what is not ready yet is left out.
    pub fn part(&mut self, body: &mut Option<Bytes>, end: bool) -> io::Result<()> {
        let stream = self.stream.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let input = body.take().unwrap_or_default();
        let mut out = match stream {
            Stream::Gzip(gzip) => write(gzip, &input, self.streamed, |gzip| gzip.get_mut())?,
            Stream::Brotli(brotli) => write(brotli, &input, self.streamed, |brotli| brotli.get_mut())?,
            Stream::Zstd(zstd) => write(zstd, &input, self.streamed, |zstd| zstd.get_mut())?,
            Stream::Done => return Ok(()),
        };
        if end {
            out.extend(match std::mem::replace(stream, Stream::Done) {
                Stream::Gzip(gzip) => gzip.finish()?,
                Stream::Brotli(brotli) => brotli.into_inner(),
                Stream::Zstd(zstd) => zstd.finish()?,
                Stream::Done => Vec::new(),
            });
        }
        // An empty part would end a chunked body.
        *body = (!out.is_empty()).then(|| out.into());
        Ok(())
    }
}

fn write<W: Write>(
    encoder: &mut W,
    input: &[u8],
    flush: bool,
    out: impl FnOnce(&mut W) -> &mut Vec<u8>,
) -> io::Result<Vec<u8>> {
    encoder.write_all(input)?;
    if flush && !input.is_empty() {
        encoder.flush()?;
    }
    Ok(std::mem::take(out(encoder)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn compression() -> Compression {
        Compression {
            algorithms: ALL.into(),
            content_types: ["text/".into(), "application/json".into(), "application/".into()].into(),
            min_bytes: 10,
        }
    }

    fn wish(accept: &[&str]) -> Option<Coding> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for value in accept {
            request.append_header("accept-encoding", *value).unwrap();
        }
        Wish::of(&request, &compression()).coding
    }

    #[test]
    fn the_coding_is_negotiated() {
        assert_eq!(wish(&[]), None);
        assert_eq!(wish(&["gzip"]), Some(Coding::Gzip));
        assert_eq!(wish(&["gzip, deflate, br, zstd"]), Some(Coding::Zstd), "the policy's order");
        assert_eq!(wish(&["gzip, br;q=0.5, zstd;q=0.1"]), Some(Coding::Gzip), "the client's weights");
        assert_eq!(wish(&["*"]), Some(Coding::Zstd));
        assert_eq!(wish(&["*, zstd;q=0"]), Some(Coding::Brotli));
        assert_eq!(wish(&["identity", "GZIP;Q=0.3"]), Some(Coding::Gzip));
        assert_eq!(wish(&["br;q=2, gzip;q=x, zstd;q=0.000"]), None);
    }

    fn head(fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(200, None).unwrap();
        response.insert_header("content-type", "text/html; charset=utf-8").unwrap();
        for (name, value) in fields {
            response.insert_header(*name, *value).unwrap();
        }
        response
    }

    fn begun(response: &mut ResponseHeader, coding: Option<Coding>) -> bool {
        begin(response, &compression(), Wish { coding }).unwrap().is_some()
    }

    #[test]
    fn heads_say_what_was_done() {
        let mut response = head(&[
            ("content-length", "10"),
            ("etag", "\"x\""),
            ("accept-ranges", "bytes"),
            ("vary", "origin"),
        ]);
        assert!(begun(&mut response, Some(Coding::Brotli)));
        assert_eq!(response.headers["content-encoding"], "br");
        assert_eq!(response.headers["etag"], "W/\"x\"");
        assert!(
            !response.headers.contains_key("content-length")
                && !response.headers.contains_key("accept-ranges")
        );
        let vary: Vec<_> = response.headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["origin", "accept-encoding"]);
        let mut plain = head(&[("vary", "Accept-Encoding"), ("etag", "W/\"x\"")]);
        assert!(!begun(&mut plain, None));
        assert_eq!(plain.headers.get_all("vary").iter().count(), 1);
        assert!(!plain.headers.contains_key("content-encoding"));
    }

    #[test]
    fn some_responses_stay_as_they_are() {
        for fields in [
            &[("content-encoding", "gzip")][..],
            &[("cache-control", "public, No-Transform")],
            &[("content-length", "9")],
            &[("content-length", "0")],
            &[("content-type", "image/png")],
            &[("content-type", "text/event-stream")],
            &[("content-type", "application/grpc+proto")],
            &[("content-digest", "sha-256=:x:")],
        ] {
            let mut response = head(fields);
            assert!(!begun(&mut response, Some(Coding::Gzip)), "{fields:?}");
            assert!(!response.headers.contains_key("vary"), "{fields:?}");
        }
        for status in [204, 206, 304, 101] {
            let mut response = head(&[]);
            response.set_status(status).unwrap();
            assert!(!begun(&mut response, Some(Coding::Gzip)), "{status}");
        }
    }

    pub(crate) fn decode(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap(),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).unwrap(),
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out).unwrap(),
        };
        out
    }

    #[test]
    fn parts_of_a_stream_are_passed_on_at_once() {
        for coding in ALL {
            let mut encoder = Encoder::new(coding, true).unwrap();
            let mut body = Some(Bytes::from_static(b"tick"));
            encoder.part(&mut body, false).unwrap();
            assert!(body.is_some_and(|part| part.len() > 4), "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_can_be_read_again(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..6), streamed: bool,
        ) {
            for coding in ALL {
                let mut encoder = Encoder::new(coding, streamed).unwrap();
                let mut out = Vec::new();
                for part in &parts {
                    let mut body = Some(Bytes::from(part.clone()));
                    encoder.part(&mut body, false).unwrap();
                    prop_assert!(body.as_ref().is_none_or(|body| !body.is_empty()));
                    out.extend(body.unwrap_or_default());
                }
                let mut end = None;
                encoder.part(&mut end, true).unwrap();
                out.extend(end.unwrap_or_default());
                prop_assert_eq!(decode(coding, &out), parts.concat());
            }
        }
    }
}
