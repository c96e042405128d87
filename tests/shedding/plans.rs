//! A plan is one change: no request sees a part of it, and nothing of it is left.

use std::{fmt::Write, time::Duration};

use crate::{
    hammer::{Hammer, get},
    support::{
        client::full,
        origin::{Origin, answer_with},
        raw::Message,
    },
    world::World,
};

/// How often the plan is turned on and off.
const TURNS: usize = 100;

/// An origin that signs its answers, and says in them which switches had told it to degrade itself.
fn origin(name: &'static str) -> Origin {
    Origin::start(move |request| {
        let told: String = (0..5)
            .map(|n| if request.headers().contains_key(format!("x-s{n}")) { '1' } else { '0' })
            .collect();
        async move { Ok(answer_with(200, &[("x-origin", name), ("x-told", &told)], full("ok"))) }
    })
}

/// Which of the ten changes an answer was given under: the five switches, the four limits, the upstream.
fn seen(answer: &Message) -> String {
    let mut all = answer.header("x-told").unwrap_or_else(|| format!("{answer:?}"));
    let rates = answer.header("ratelimit-policy").unwrap_or_default();
    for n in 0..4 {
        all.push(if rates.contains(&format!("\"l{n}\";q=2000000;")) { '1' } else { '0' });
    }
    all.push(if answer.header("x-origin").as_deref() == Some("second") { '1' } else { '0' });
    all
}

#[test]
fn no_request_ever_sees_a_part_of_one() {
    let (world, first, second) = (World::start(), origin("first"), origin("second"));
    let mut policy = format!(
        "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ in: {{ upstream: app }} }}\n  switches:\n",
        first.address
    );
    let mut plan = String::from("    sale:\n      switches:\n");
    for n in 0..5 {
        writeln!(policy, "    s{n}: {{ annotate: {{ x-s{n}: \"1\" }}, state: off }}").unwrap();
        writeln!(plan, "        s{n}: on").unwrap();
    }
    policy.push_str("  limits:\n");
    plan.push_str("      limits:\n");
    for n in 0..4 {
        writeln!(policy, "    l{n}: {{ rate: 1000000/s, algorithm: fixed_window, headers: always }}")
            .unwrap();
        writeln!(plan, "        l{n}: 2000000/s").unwrap();
    }
    writeln!(plan, "      upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}", second.address).unwrap();
    let weir = world.weir("pod-1", "", &format!("{policy}  plans:\n{plan}"));
    // An overlay that lies beneath the plan, so that there is something to restore.
    world.put(&[&weir], "orders/limits/l0", "{why: it is there, cost: 2}");
    let documents = || weir.admin_get("/policy").text();
    let before = documents();

    let hammer = Hammer::start(weir.at("inbound"), 3, Duration::from_micros(500), &get("/", &[]), seen);
    hammer.more(10);
    for turn in 0..TURNS {
        world.put(&[&weir], "orders/plans/sale", "on");
        let on = hammer.more(3);
        assert!(on.iter().all(|shot| shot.seen == "1111111111"), "turn {turn}: {on:?}");
        world.delete(&[&weir], "orders/plans/sale");
        let off = hammer.more(3);
        assert!(off.iter().all(|shot| shot.seen == "0000000000"), "turn {turn}: {off:?}");
    }
    let all = hammer.end();
    let parts: Vec<_> =
        all.iter().filter(|shot| !["0000000000", "1111111111"].contains(&&*shot.seen)).collect();
    assert!(parts.is_empty(), "{} of {} saw a part: {:?}", parts.len(), all.len(), parts[0]);
    assert_eq!(documents(), before, "exactly what was there is there again");
    eprintln!("{} answers, {TURNS} times on and off", all.len());
}
