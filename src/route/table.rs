//! From a request to its route, by the precedence of the Kubernetes Gateway API.
//!
//! A route with several hosts and paths stands in the table once for each pair. What matches is compared by,
//! in this order:
//!
//! 1. host: exact, then the longest wildcard, then none;
//! 2. path: exact, then the longest prefix, then regular expressions, then the prefix `/`, which is also what no path
//!    means: it matches everything, and before them would leave the expressions of its host without a request;
//! 3. with `methods` before without;
//! 4. the number of header criteria, more first; `client` and `grpc` count as one each;
//! 5. the number of query parameters, more first;
//! 6. the route's name.
//!
//! A `grpc` pattern without `path` is also the path that it implies: `/service/method` exactly, or everything
//! below `/service`.
//!
//! The table finds candidates by hashing the host (once for each label while wildcards are there), then the
//! whole path, then each prefix of the path for whose length there is a route. So the cost does not grow with
//! the number of routes, only with how many share one host and path, and with the number of regular
//! expressions of a host, which are tried in turn when nothing else matched.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::matcher::{Conditions, RequestView};
use crate::config::{
    Name, Pattern,
    policy::{HostPattern, Match, PathPattern, Route},
};

/// The position of a route in the slice that its table was compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteIndex(usize);

impl RouteIndex {
    /// As an index into that slice.
    pub const fn get(self) -> usize {
        self.0
    }
}

/// The routes of one listener, compiled.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By exact host.
    exact: HashMap<Box<str>, HostTable, RandomState>,
    /// By the suffix of a wildcard, with its leading dot.
    wildcards: HashMap<Box<str>, HostTable, RandomState>,
    /// Routes for every host.
    any: HostTable,
}

impl RouteTable {
    /// Compiles those of `routes` that are for `listener`.
    pub fn compile(routes: &[Arc<Route>], listener: &Name) -> Self {
        let mut table = Self::default();
        let mut ranked: Vec<_> = routes
            .iter()
            .enumerate()
            .filter(|(_, route)| route.matches.listener.as_ref().is_none_or(|wanted| wanted == listener))
            .collect();
        // Every list below is filled in this order and so needs no sorting of its own.
        ranked.sort_by(|(_, a), (_, b)| rank(a).cmp(&rank(b)));
        table.exact.reserve(ranked.len());
        // Most routes have no more conditions than these: with many of them, making each is what a change would take.
        let none = Arc::new(Conditions::compile(&Match::default()));
        for (index, route) in ranked {
            let conditions = Conditions::compile(&route.matches);
            let conditions = if conditions.is_empty() { Arc::clone(&none) } else { Arc::new(conditions) };
            let candidate = Candidate { route: RouteIndex(index), conditions };
            let paths = effective_paths(&route.matches);
            if route.matches.host.is_empty() {
                table.any.add(&paths, &candidate);
            }
            for host in &route.matches.host {
                let host = match host {
                    HostPattern::Exact(exact) => table.exact.entry((&**exact).into()),
                    HostPattern::Suffix(suffix) => table.wildcards.entry((&**suffix).into()),
                };
                host.or_default().add(&paths, &candidate);
            }
        }
        table
    }

    /// The route that a request takes, if any.
    ///
    /// The routes of the most specific host come first; where none of them matches, those of the next.
    pub fn resolve(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        self.by_exact_host(request)
            .or_else(|| self.by_wildcard(request))
            .or_else(|| self.any.resolve(request))
    }

    /// Whether some route names `host`, exactly or by a wildcard.
    pub fn names(&self, host: &str) -> bool {
        let by_wildcard = |dot| host.get(dot..).is_some_and(|suffix| self.wildcards.contains_key(suffix));
        self.exact.contains_key(host) || memchr::memchr_iter(b'.', host.as_bytes()).any(by_wildcard)
    }

    fn by_exact_host(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        if self.exact.is_empty() {
            return None;
        }
        self.exact.get(request.host)?.resolve(request)
    }

    /// Tries the wildcards from the longest.
    fn by_wildcard(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        if self.wildcards.is_empty() {
            return None;
        }
        // A wildcard stands for at least one character, so a dot at the very beginning is no boundary.
        memchr::memchr_iter(b'.', request.host.as_bytes())
            .filter(|&dot| dot > 0)
            .filter_map(|dot| self.wildcards.get(request.host.get(dot..)?))
            .find_map(|host| host.resolve(request))
    }
}

/// What orders routes whose host and path are equally specific; the least comes first.
fn rank(route: &Route) -> impl Ord + '_ {
    let Match { methods, headers, query, client, grpc, .. } = &route.matches;
    let criteria = headers.len() + usize::from(!client.is_empty()) + usize::from(grpc.is_some());
    (Reverse(!methods.is_empty()), Reverse(criteria), Reverse(query.len()), &route.name)
}

/// The paths of a `match` block, those that it only implies included; at least one.
fn effective_paths(matches: &Match) -> Cow<'_, [PathPattern]> {
    if !matches.path.is_empty() {
        return Cow::Borrowed(&matches.path);
    }
    Cow::Owned(vec![match &matches.grpc {
        None => PathPattern::Prefix("".into()),
        Some(grpc) => match &grpc.method {
            None => PathPattern::Prefix(format!("/{}", grpc.service).into()),
            Some(method) => PathPattern::Exact(format!("/{}/{method}", grpc.service).into()),
        },
    }])
}

/// A route that is right for the host and path, if its other conditions hold.
#[derive(Debug, Clone)]
struct Candidate {
    route: RouteIndex,
    conditions: Arc<Conditions>,
}

impl Candidate {
    fn first(list: &[Self], request: &RequestView<'_>) -> Option<RouteIndex> {
        list.iter().find(|candidate| candidate.conditions.hold(request)).map(|candidate| candidate.route)
    }
}

/// Nearly always there is one.
type Candidates = SmallVec<[Candidate; 1]>;

/// The routes of one host pattern. All lists are in order of precedence.
#[derive(Debug, Default)]
struct HostTable {
    exact: HashMap<Box<str>, Candidates, RandomState>,
    /// By prefix without its closing slash; the prefix `/` is in `root`.
    prefixes: HashMap<Box<str>, Candidates, RandomState>,
    lengths: Lengths,
    root: Candidates,
    regexes: Vec<(Pattern, Candidate)>,
}

impl HostTable {
    fn add(&mut self, paths: &[PathPattern], candidate: &Candidate) {
        for path in paths {
            match path {
                PathPattern::Exact(exact) => {
                    self.exact.entry((&**exact).into()).or_default().push(candidate.clone());
                }
                PathPattern::Prefix(prefix) => match prefix.trim_end_matches('/') {
                    "" => self.root.push(candidate.clone()),
                    prefix => {
                        self.lengths.insert(prefix.len());
                        self.prefixes.entry(prefix.into()).or_default().push(candidate.clone());
                    }
                },
                PathPattern::Regex(regex) => self.regexes.push((regex.clone(), candidate.clone())),
            }
        }
    }

    fn resolve(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        self.by_exact_path(request)
            .or_else(|| self.by_prefix(request))
            .or_else(|| self.by_regex(request))
            .or_else(|| Candidate::first(&self.root, request))
    }

    fn by_exact_path(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        if self.exact.is_empty() {
            return None;
        }
        Candidate::first(self.exact.get(request.path)?, request)
    }

    /// Tries the prefixes of the path that end where a segment ends, from the longest.
    ///
    /// Only lengths for which there is a route are hashed, so a path of a thousand segments costs no more
    /// than the routes give reason for.
    fn by_prefix(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        let path = request.path;
        let mut end = path.len();
        if end > self.lengths.longest {
            end = memchr::memrchr(b'/', path.as_bytes().get(..=self.lengths.longest)?)?;
        }
        while end > 0 {
            let prefix = path.get(..end)?;
            if self.lengths.contains(end)
                && let Some(list) = self.prefixes.get(prefix)
                && let Some(route) = Candidate::first(list, request)
            {
                return Some(route);
            }
            end = memchr::memrchr(b'/', prefix.as_bytes())?;
        }
        None
    }

    fn by_regex(&self, request: &RequestView<'_>) -> Option<RouteIndex> {
        let mut regexes = self.regexes.iter();
        let found = regexes
            .find(|(regex, candidate)| candidate.conditions.hold(request) && regex.is_match(request.path));
        found.map(|(_, candidate)| candidate.route)
    }
}

/// A set of lengths, as bits.
#[derive(Debug, Default)]
struct Lengths {
    bits: Vec<u64>,
    longest: usize,
}

impl Lengths {
    fn insert(&mut self, length: usize) {
        self.longest = self.longest.max(length);
        self.bits.resize(self.longest / 64 + 1, 0);
        if let Some(word) = self.bits.get_mut(length / 64) {
            *word |= 1 << (length % 64);
        }
    }

    fn contains(&self, length: usize) -> bool {
        self.bits.get(length / 64).is_some_and(|word| word >> (length % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests;
