//! What a configuration looks at in the heads of public requests: the values that a sample has to keep in order to be
//! decided again.

use std::collections::HashSet;

use http::{
    HeaderName,
    header::{
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN,
        PROXY_AUTHORIZATION,
    },
};

use super::{
    Bind,
    gray::{DEFAULT_COOKIE, KeySource, Release},
    rule::{Action, Rule},
    session::Carrier,
    table::Entry,
};

/// Names of what decides. Credentials are never among them, even where a route matches on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deciding {
    pub(crate) headers: HashSet<HeaderName>,
    pub(crate) cookies: HashSet<Box<str>>,
    pub(crate) parameters: HashSet<Box<str>>,
    /// Some route believes the lane that its clients claim.
    pub(crate) lane: bool,
}

impl Deciding {
    pub(crate) fn of(binds: &[Bind]) -> Self {
        let mut out = Self::default();
        for entry in binds.iter().flat_map(|bind| &bind.listeners).flat_map(|l| l.routes.entries()) {
            out.add(entry);
        }
        for secret in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
            out.headers.remove(&secret);
        }
        out
    }

    fn add(&mut self, entry: &Entry) {
        self.headers.extend(entry.matches.headers.iter().map(|header| header.name.clone()));
        self.parameters.extend(entry.matches.query.iter().map(|query| query.name.clone()));
        let rule: &Rule = &entry.rule;
        self.lane |= rule.trusts_lane;
        match rule.session.as_ref().map(|session| &session.carrier) {
            Some(Carrier::Cookie { name, .. }) => drop(self.cookies.insert(name.clone())),
            Some(Carrier::Header(name)) => drop(self.headers.insert(name.clone())),
            None => {}
        }
        if rule.filters.cors.is_some() {
            self.headers.extend([ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS]);
        }
        let of_targets = match &rule.action {
            Action::Forward(targets) => targets.targets().filter_map(|t| t.release.as_ref()).collect(),
            Action::Redirect(_) => Vec::new(),
        };
        for release in rule.release.iter().chain(of_targets) {
            self.add_release(release);
        }
    }

    fn add_release(&mut self, release: &Release) {
        for rule in &release.rules {
            self.headers.extend(rule.headers.iter().map(|header| header.name.clone()));
            self.cookies.extend(rule.cookies.iter().map(|(name, _)| name.clone()));
        }
        match &release.key {
            KeySource::Cookie(name) => drop(self.cookies.insert(name.clone())),
            KeySource::Header(name) => {
                self.headers.insert(name.clone());
                self.cookies.insert(DEFAULT_COOKIE.into());
            }
            KeySource::Issued => drop(self.cookies.insert(DEFAULT_COOKIE.into())),
            KeySource::SourceIp => {}
        }
    }
}
