//! Answers from outside, kept for as long as they may be and within a bound of bytes.

use std::time::{Duration, Instant};

use hickory_proto::{
    op::{DnsResponse, ResponseCode},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::BinEncodable,
};
use moka::sync::Cache;

/// Bytes of all answers that are kept. At the bound those that are asked for least go.
const MOST_BYTES: u64 = 4 << 20;
/// Nothing is kept for longer than this, whatever its TTL says.
const LONGEST: Duration = Duration::from_secs(300);

/// An answer from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `NOERROR` and `NXDOMAIN` are answers; anything else is a failure.
    pub code: ResponseCode,
    /// Records, aliases included.
    pub answers: Vec<Record>,
    /// The SOA of a negative answer.
    pub authorities: Vec<Record>,
}

impl Answer {
    /// Nothing but a code.
    pub fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }

    /// What a resolver has said to a question of this type. An alias of something that has no record of the type is part of
    /// that: it is told with the SOA of who says so (RFC 2308, section 2.2).
    pub fn of(response: DnsResponse, kind: RecordType) -> Self {
        let message = response.into_message();
        let code = message.metadata.response_code;
        let (answers, mut authorities) = (message.answers, message.authorities);
        let is_found = |record: &Record| kind == RecordType::ANY || record.record_type() == kind;
        let is_soa = |record: &Record| record.record_type() == RecordType::SOA;
        let positive = answers.iter().any(is_found);
        authorities.retain(|record| !positive && is_soa(record));
        let mut answer = Self { code, answers, authorities };
        answer.records().for_each(|record| record.ttl = record.ttl.min(LONGEST.as_secs() as u32));
        answer
    }

    fn records(&mut self) -> impl Iterator<Item = &mut Record> {
        self.answers.iter_mut().chain(&mut self.authorities)
    }

    /// How long it may be kept: what has no SOA to say so of a negative answer, not at all (RFC 2308, section 5).
    fn lifetime(&self, kind: RecordType) -> Option<Duration> {
        let negative = !self.answers.iter().any(|r| kind == RecordType::ANY || r.record_type() == kind);
        let soa = self.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        let seconds = match negative {
            true => self.answers.iter().map(|r| r.ttl).chain([soa?]).min(),
            false => self.answers.iter().map(|r| r.ttl).min(),
        };
        let known = matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain);
        seconds.filter(|seconds| known && *seconds > 0).map(|s| Duration::from_secs(s.into()).min(LONGEST))
    }

    /// In memory, with what its records point to: names and data as they are written uncompressed.
    fn bytes(&self) -> u32 {
        let record = |record: &Record| size_of::<Record>() + record.to_bytes().map_or(0, |bytes| bytes.len());
        let records: usize = self.answers.iter().chain(&self.authorities).map(record).sum();
        u32::try_from(size_of::<Entry>() + records).unwrap_or(u32::MAX)
    }
}

#[derive(Clone)]
struct Entry {
    answer: Answer,
    since: Instant,
    lifetime: Duration,
    bytes: u32,
}

/// Answers by name (in lower case) and type. Clones are one.
#[derive(Clone)]
pub(super) struct Kept(Cache<(Name, RecordType), Entry>);

impl Default for Kept {
    fn default() -> Self {
        Self::within(MOST_BYTES)
    }
}

impl Kept {
    fn within(bytes: u64) -> Self {
        let weigh = |(name, _): &(Name, RecordType), entry: &Entry| {
            entry.bytes.saturating_add(u32::try_from(size_of::<Name>() + name.len()).unwrap_or(u32::MAX))
        };
        Self(Cache::builder().weigher(weigh).max_capacity(bytes).time_to_live(LONGEST).build())
    }

    /// The answer, its TTLs less what has passed.
    pub fn get(&self, question: &(Name, RecordType), now: Instant) -> Option<Answer> {
        let Entry { mut answer, since, lifetime, .. } = self.0.get(question)?;
        let age = now.saturating_duration_since(since);
        if age >= lifetime {
            return None;
        }
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        answer.records().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
        Some(answer)
    }

    /// Keeps it, if it may be kept.
    pub fn put(&self, question: (Name, RecordType), answer: &Answer, now: Instant) {
        if let Some(lifetime) = answer.lifetime(question.1) {
            let entry = Entry { answer: answer.clone(), since: now, lifetime, bytes: answer.bytes() };
            self.0.insert(question, entry);
        }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("bytes", &self.0.weighted_size()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::{A, SOA, TXT};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(ttl: u32, data: RData) -> Record {
        Record::from_rdata(name("a.example."), ttl, data)
    }

    #[test]
    fn an_answer_ages_and_ends_by_its_shortest_ttl() {
        let (kept, now, question) = (Kept::default(), Instant::now(), (name("a.example."), RecordType::A));
        let address = |ttl| record(ttl, RData::A(A(Ipv4Addr::LOCALHOST)));
        let answer =
            Answer { answers: vec![address(60), address(30)], ..Answer::code(ResponseCode::NoError) };
        kept.put(question.clone(), &answer, now);
        let after = |seconds| kept.get(&question, now + Duration::from_secs(seconds));
        let ttls = |answer: Answer| answer.answers.iter().map(|r| r.ttl).collect::<Vec<_>>();
        assert_eq!((after(0).map(ttls), after(29).map(ttls)), (Some(vec![60, 30]), Some(vec![31, 1])));
        assert_eq!(after(30), None);
    }

    #[test]
    fn that_there_is_nothing_is_kept_as_its_soa_says_and_a_failure_never() {
        let (kept, now) = (Kept::default(), Instant::now());
        let soa = SOA::new(name("example."), name("example."), 1, 1, 1, 1, 20);
        let mut number = 0;
        let mut lifetime = |code, authorities: Vec<Record>| {
            number += 1;
            let question = (name(&format!("{number}.example.")), RecordType::A);
            kept.put(question.clone(), &Answer { authorities, ..Answer::code(code) }, now);
            (1..400).take_while(|s| kept.get(&question, now + Duration::from_secs(*s)).is_some()).count()
        };
        assert_eq!(lifetime(ResponseCode::NoError, vec![record(60, RData::SOA(soa.clone()))]), 19);
        assert_eq!(lifetime(ResponseCode::NXDomain, vec![record(10, RData::SOA(soa.clone()))]), 9);
        assert_eq!(lifetime(ResponseCode::NoError, Vec::new()), 0);
        assert_eq!(lifetime(ResponseCode::ServFail, vec![record(60, RData::SOA(soa))]), 0);
    }

    #[test]
    fn large_answers_are_kept_in_bounded_bytes() {
        let (kept, now) = (Kept::within(256 << 10), Instant::now());
        let text = record(60, RData::TXT(TXT::new(vec!["x".repeat(255); 20])));
        let answer = Answer { answers: vec![text; 10], ..Answer::code(ResponseCode::NoError) };
        for number in 0..100 {
            kept.put((name(&format!("{number}.example.")), RecordType::TXT), &answer, now);
            kept.0.run_pending_tasks();
            assert!(kept.0.weighted_size() <= 256 << 10, "{kept:?}");
        }
        assert!((1..=5).contains(&kept.0.entry_count()), "51 KiB each: {}", kept.0.entry_count());
    }
}
