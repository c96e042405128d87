//! Fallbacks that lead back to where they began.

use std::collections::{HashMap, HashSet};

use crate::config::{
    Name,
    codes::Code,
    fault::Problem,
    policy::{Fallback, Upstream},
};

/// Every circle of fallbacks that can be reached from `starts`, once, beginning with its first member by name. `next`
/// says to which upstream another one falls back.
pub(crate) fn circles<'n>(
    starts: impl IntoIterator<Item = &'n Name>,
    next: impl Fn(&Name) -> Option<Name>,
) -> Vec<Vec<Name>> {
    let mut out = Vec::new();
    let mut done: HashSet<Name> = HashSet::new();
    for start in starts {
        let mut way: Vec<Name> = Vec::new();
        let mut places: HashMap<Name, usize> = HashMap::new();
        let mut at = Some(start.clone());
        while let Some(name) = at.filter(|name| !done.contains(name)) {
            if let Some(circle) = places.get(&name).and_then(|place| way.get(*place..)) {
                out.push(from_its_first(circle));
                break;
            }
            places.insert(name.clone(), way.len());
            at = next(&name);
            way.push(name);
        }
        done.extend(way);
    }
    out
}

/// The same circle, beginning with its first member by name.
fn from_its_first(circle: &[Name]) -> Vec<Name> {
    let mut circle = circle.to_vec();
    let first = circle.iter().enumerate().min_by_key(|(_, name)| *name).map_or(0, |(place, _)| place);
    circle.rotate_left(first);
    circle
}

/// A circle, for people.
pub(crate) fn circle_problem(circle: &[Name]) -> Problem {
    let names: Vec<_> = circle.iter().chain(circle.first()).map(Name::as_str).collect();
    Problem::new(Code::Circle, format!("a circle of fallbacks: {}", names.join(" → ")))
        .help("one of them may fall back to a fixed answer (`respond`), or to nothing")
}

/// The upstream to which another one falls back.
pub(crate) fn falls_back_to(upstream: &Upstream) -> Option<&Name> {
    match upstream.fallback.as_ref()? {
        Fallback::Upstream(name) => Some(name),
        Fallback::Respond(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> Name {
        Name::new(&format!("u{number}")).unwrap()
    }

    fn found(edges: &[Option<usize>]) -> Vec<Vec<Name>> {
        let names: Vec<_> = (0..edges.len()).map(name).collect();
        circles(&names, |from| {
            let number: usize = from.as_str()[1..].parse().unwrap();
            edges[number].map(name)
        })
    }

    #[test]
    fn each_circle_once_from_its_first_member() {
        assert_eq!(found(&[Some(1), Some(2), None]), Vec::<Vec<Name>>::new());
        // Two circles; 0 and 4 only lead to them.
        let edges = [Some(2), Some(2), Some(1), Some(3), Some(3)];
        assert_eq!(found(&edges), [vec![name(1), name(2)], vec![name(3)]]);
        let problem = circle_problem(&[name(1), name(2)]);
        assert_eq!(problem.message, "a circle of fallbacks: u1 → u2 → u1");
    }

    proptest! {
        /// By another way: whoever comes back to itself within as many steps as there are upstreams is on a circle.
        #[test]
        fn exactly_those_who_come_back_are_on_circles(edges in prop::collection::vec(prop::option::of(0..8usize), 8)) {
            let comes_back = |start: usize| {
                let steps = std::iter::successors(edges[start], |at| edges[*at]).take(edges.len());
                steps.into_iter().any(|at| at == start)
            };
            let mut on: Vec<Name> = found(&edges).into_iter().flatten().collect();
            on.sort();
            let expected: Vec<Name> = (0..edges.len()).filter(|start| comes_back(*start)).map(name).collect();
            prop_assert_eq!(on, expected);
        }
    }
}
