//! From a packet to a question, and from an answer to a packet.

use std::net::SocketAddr;

use hickory_proto::{
    op::{Edns, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
    serialize::binary::BinEncoder,
};
use hickory_server::{net::xfer::Protocol, server::Request, zone_handler::MessageResponseBuilder};

/// Bytes of a header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
/// The largest UDP answer (RFC 9715: no fragments); a longer one is cut and marked so, and the client comes by TCP.
const UDP_MOST: u16 = 1232;
/// What a client without EDNS takes by UDP (RFC 1035, section 2.3.4).
const UDP_LEAST: u16 = 512;

/// What a packet is.
pub enum Packet {
    /// A question to be answered.
    Question(Box<Question>),
    /// To be answered with this packet at once: what was wrong is its response code.
    Refused(ResponseCode, Vec<u8>),
    /// Not to be answered: too short for a header, or an answer itself (a reflection).
    Ignored,
}

/// One question of one request.
pub struct Question {
    request: Request,
    /// The name, as it was asked.
    pub name: Name,
    /// The type.
    pub kind: RecordType,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// NOERROR, NXDOMAIN, ...
    pub code: ResponseCode,
    /// From this server's own zones.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section, without EDNS.
    pub additionals: Vec<Record>,
}

impl Reply {
    /// A reply of nothing but its code.
    pub fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: vec![], authorities: vec![], additionals: vec![] }
    }
}

/// Reads a packet.
pub fn read(bytes: &[u8], source: SocketAddr, protocol: Protocol) -> Packet {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Packet::Ignored };
    let [id0, id1, flags0, _, questions0, questions1, ..] = *header;
    let is_answer = flags0 & 0x80 != 0;
    if is_answer {
        return Packet::Ignored;
    }
    let refuse = |code: ResponseCode| Packet::Refused(code, bare(id0, id1, flags0, code));
    // Looked at before parsing, which makes room for as many as are announced.
    if u16::from_be_bytes([questions0, questions1]) > 1 {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(request) = Request::from_bytes(bytes.to_vec(), source, protocol) else {
        return refuse(ResponseCode::FormErr);
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = request.queries.queries() else { return refuse(ResponseCode::FormErr) };
    let (name, kind) = (query.original().name().clone(), query.query_type());
    let code = if request.version() > 0 {
        ResponseCode::BADVERS
    } else if query.query_class() != DNSClass::IN || matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        ResponseCode::Refused
    } else {
        return Packet::Question(Box::new(Question { request, name, kind }));
    };
    let question = Question { request, name, kind };
    Packet::Refused(code, question.write(&Reply::code(code)))
}

impl Question {
    /// The packet of a reply, no longer than the client takes: where not all answers fit into it, those that do, marked as
    /// cut.
    pub fn write(&self, reply: &Reply) -> Vec<u8> {
        let mut bytes = self.emit(reply, &reply.answers, &reply.additionals, false);
        if is_cut(&bytes) && !reply.additionals.is_empty() {
            // What is only there to save questions is no reason to ask again (RFC 2181, section 9).
            bytes = self.emit(reply, &reply.answers, &[], false);
        }
        if is_cut(&bytes) {
            let fitting = usize::from(count_at(&bytes, ANSWERS)).min(reply.answers.len());
            for fitting in (0..=fitting).rev().take(2) {
                bytes = self.emit(reply, reply.answers.get(..fitting).unwrap_or_default(), &[], true);
                // EDNS is answered with EDNS whatever is cut (RFC 6891, section 7); an answer less makes room for it.
                if self.request.edns.is_none() || count_at(&bytes, ADDITIONALS) == 1 {
                    break;
                }
            }
        }
        bytes
    }

    fn emit(&self, reply: &Reply, answers: &[Record], additionals: &[Record], cut: bool) -> Vec<u8> {
        let mut metadata = Metadata::response_from_request(&self.request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        metadata.truncation = cut;
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MOST);
        let mut builder = MessageResponseBuilder::from_message_request(&self.request);
        if self.request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(metadata, answers, &reply.authorities, &[], additionals);
        let mut bytes = Vec::with_capacity(usize::from(UDP_LEAST));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.most());
        match response.destructive_emit(&mut encoder) {
            Ok(_) => bytes,
            Err(error) => {
                tracing::debug!(%error, "an answer cannot be written");
                let [id0, id1] = self.request.metadata.id.to_be_bytes();
                bare(id0, id1, 0, ResponseCode::ServFail)
            }
        }
    }

    fn most(&self) -> u16 {
        match self.request.protocol() {
            Protocol::Udp => self.request.max_payload().clamp(UDP_LEAST, UDP_MOST),
            _ => u16::MAX,
        }
    }
}

/// Where the numbers of answers and of additional records stand in a header.
const ANSWERS: usize = 6;
const ADDITIONALS: usize = 10;

fn count_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |count| u16::from_be_bytes(*count))
}

/// True if a packet says of itself that something did not fit into it.
fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// An answer of nothing but its header: what it answers could not be read.
fn bare(id0: u8, id1: u8, flags0: u8, code: ResponseCode) -> Vec<u8> {
    // The operation and "recursion desired" go back as they came (RFC 1035, section 4.1.1).
    let echoed = flags0 & 0b0111_1001;
    vec![id0, id1, 0x80 | echoed, code.low(), 0, 0, 0, 0, 0, 0, 0, 0]
}
