//! Asking by HTTP: a request like the one it is about.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};

use super::{Action, Change, Changes, Denial, Question, Verdict, belongs_to_connection};
use crate::proxy::ask::{Answer, Error};

/// The request to the server.
pub(super) fn question(
    question: &Question<'_>,
    prefix: &str,
    headers: &[HeaderName],
) -> Result<Request<Bytes>, Error> {
    let uri = format!("{}://{}{prefix}{}", question.scheme, question.authority, question.path_and_query);
    let mut request = Request::builder().method(question.method.clone()).uri(uri);
    for name in headers.iter().filter(|name| **name != header::AUTHORIZATION).chain([&header::AUTHORIZATION])
    {
        if belongs_to_connection(name) {
            continue;
        }
        for value in question.headers.get_all(name) {
            request = request.header(name, value);
        }
    }
    Ok(request.body(question.body.clone())?)
}

/// What the answer says: 200 lets through.
pub(super) fn verdict(answer: Answer, listed: &[HeaderName]) -> Verdict {
    let headers = answer.head.headers;
    if answer.head.status != StatusCode::OK {
        let headers = headers.into_iter();
        let mut last = None;
        let fields = headers.filter_map(|(name, value)| {
            // A map gives the name of a field that repeats only once.
            last = name.or(last.take());
            last.clone().map(|name| (name, value))
        });
        let headers = fields.filter(|(name, _)| !belongs_to_connection(name)).collect();
        return Verdict::Deny(Denial { status: answer.head.status, headers, body: answer.body });
    }
    let mut changes = Changes::default();
    let wanted = |name: &HeaderName| match listed {
        [] => !is_about_the_answer(name),
        listed => listed.contains(name),
    };
    for name in headers.keys().filter(|name| wanted(name) && !belongs_to_connection(name)) {
        let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
        for (at, value) in values.into_iter().enumerate() {
            // What the client has sent under this name goes.
            let action = if at == 0 { Action::Overwrite } else { Action::Append };
            changes.request.push(Change { action, name: name.clone(), value: value.clone() });
        }
    }
    // What the server could have said, but has not, must not be believed from the client.
    changes.remove.extend(listed.iter().filter(|name| !headers.contains_key(*name)).cloned());
    Verdict::Allow(changes)
}

/// Fields that tell of the answer itself, and would be wrong in a request.
fn is_about_the_answer(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-")
        || name.as_str().starts_with("access-control-")
        || [
            header::DATE,
            header::SERVER,
            header::VARY,
            header::SET_COOKIE,
            header::ETAG,
            header::AGE,
            header::EXPIRES,
            header::CACHE_CONTROL,
            header::LAST_MODIFIED,
            header::LOCATION,
            header::ACCEPT_RANGES,
            header::ALLOW,
        ]
        .contains(name)
}
