use std::{num::NonZeroU32, time::Duration};

use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::{
    config::policy::Algorithm,
    shared_rate::{limit::Take, settings::tests::settings},
};

/// One instance: a limit, and the books of its thread.
struct Instance {
    desk: Desk,
    limit: Arc<SharedLimit>,
    inbox: tokio::sync::mpsc::UnboundedReceiver<super::super::limit::Message>,
}

fn at(ms: u64) -> Stamp {
    Stamp::from_micros(1_024_000 + ms * 1000)
}

fn tokens(burst: u32) -> Settings {
    settings(1000, Algorithm::TokenBucket { burst })
}

fn reply(granted: u32, wait_ms: u64, left: u32) -> Reply {
    Reply { granted, wait: Some(Duration::from_millis(wait_ms)), left, valid: Duration::ZERO, window: 0 }
}

impl Instance {
    fn new(settings: Settings) -> Self {
        let gate = Arc::new(Gate::default());
        let (sender, inbox) = unbounded_channel();
        let name = |text| Name::new(text).unwrap();
        let limit = SharedLimit::new(0, name("checkout"), settings, gate.clone(), sender);
        let mut desk = Desk::new(name("orders"), gate);
        desk.add(Arc::downgrade(&limit));
        Self { desk, limit, inbox }
    }

    fn tag(key: u64) -> Place {
        (0, key)
    }

    fn ask(&mut self, key: u64, cost: u32, ms: u64) -> oneshot::Receiver<Answer> {
        let (answer, told) = oneshot::channel();
        self.desk.ask(Self::tag(key), &key.to_be_bytes(), cost, answer, at(ms));
        told
    }

    /// Takes from the lease alone.
    fn takes(&self, cost: u32, ms: u64) -> bool {
        matches!(self.limit.take(None, cost, at(ms)), Take::Granted { .. })
    }

    fn refuses(&self, cost: u32, ms: u64) -> bool {
        matches!(self.limit.take(None, cost, at(ms)), Take::Refused { .. })
    }

    fn left(&self) -> u32 {
        self.limit.leases.find(Leases::ALL).unwrap().left()
    }
}

use super::super::table::Leases;

/// How much at least and at most, and given back to which window: of a token bucket's call, or a window's.
fn wants(call: &Call) -> (u64, u64, u64, u64) {
    let of = &call.arguments;
    match call.script {
        super::super::call::Script::Bucket => (of[4], of[5], of[8], 0),
        super::super::call::Script::Window => (of[3], of[4], of[5], of[6]),
    }
}

fn told(told: &mut oneshot::Receiver<Answer>) -> Option<Answer> {
    told.try_recv().ok()
}

fn goes(answer: Option<Answer>) -> bool {
    matches!(answer, Some(Answer::Granted { .. }))
}

#[test]
fn those_who_wait_share_a_call_and_are_served_in_order() {
    let mut one = Instance::new(tokens(10));
    let mut waiting: Vec<_> = [1, 2, 3].map(|cost| one.ask(Leases::ALL, cost, 0)).into();
    let calls = one.desk.calls(at(0));
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].key, "weir:{orders/checkout}:t");
    // A quarter of the burst is leased ahead at most.
    assert_eq!(wants(&calls[0]), (1, 8, 0, 0));
    one.desk.settle(&[reply(4, 0, 0)], at(0), at(1));
    let answers: Vec<_> = waiting.iter_mut().map(told).collect();
    assert!(goes(answers[0]) && goes(answers[1]));
    assert_eq!((answers[2], one.left()), (None, 1), "it waits on, and what is left is not lost");
    // It asks again, for what is missing.
    assert!(one.desk.is_due());
    let call = one.desk.calls(at(1)).remove(0);
    assert_eq!(wants(&call).0, 2);
    assert_eq!(one.left(), 0, "nobody else gets what it was promised");
}

#[test]
fn a_refusal_is_for_all_who_cost_as_much_and_what_was_taken_out_goes_back() {
    let mut one = Instance::new(tokens(100));
    let _first = one.ask(Leases::ALL, 1, 0);
    one.desk.calls(at(0));
    one.desk.settle(&[reply(3, 0, 0)], at(0), at(0));
    assert_eq!(one.left(), 2);
    let mut waiting: Vec<_> = [5, 1, 7].map(|cost| one.ask(Leases::ALL, cost, 1)).into();
    assert_eq!(wants(&one.desk.calls(at(1))[0]).0, 3, "two are here");
    one.desk.settle(&[reply(0, 30, 2)], at(1), at(2));
    let answers: Vec<_> = waiting.iter_mut().map(told).collect();
    let refused = Some(Answer::Refused { retry_after: Some(Duration::from_millis(30)), remaining: 4 });
    assert_eq!((answers[0], answers[2]), (refused, refused));
    assert!(goes(answers[1]), "two were here");
    assert!(one.takes(1, 2), "and one still is");
    assert!(one.refuses(5, 3) && one.refuses(5, 31) && !one.refuses(5, 40));
}

#[test]
fn a_short_refusal_is_kept_long_enough_to_spare_redis() {
    let mut one = Instance::new(tokens(1000));
    let mut first = one.ask(Leases::ALL, 1, 0);
    one.desk.calls(at(0));
    one.desk.settle(&[reply(0, 1, 0)], at(0), at(0));
    assert!(matches!(told(&mut first), Some(Answer::Refused { .. })));
    assert!(one.refuses(1, 9) && !one.refuses(1, 12), "ten milliseconds");
}

#[test]
fn it_leases_what_it_uses_and_fills_up_at_half() {
    let mut one = Instance::new(tokens(100_000));
    // A request each millisecond, for a second.
    let (mut asked, mut granted) = (0, 0);
    for ms in 0..1000 {
        if !one.takes(1, ms) {
            let mut waiting = one.ask(Leases::ALL, 1, ms);
            asked += 1;
            let call = one.desk.calls(at(ms)).remove(0);
            granted += wants(&call).1;
            one.desk.settle(&[reply(u32::try_from(wants(&call).1).unwrap(), 0, 0)], at(ms), at(ms));
            assert!(goes(told(&mut waiting)));
        }
        while let Ok(message) = one.inbox.try_recv() {
            let super::super::limit::Message::Refill { limit, tag } = message else { continue };
            one.desk.refill((limit, tag));
        }
        for call in one.desk.calls(at(ms)) {
            granted += wants(&call).1;
            one.desk.settle(&[reply(u32::try_from(wants(&call).1).unwrap(), 0, 0)], at(ms), at(ms));
        }
    }
    assert!(asked < 10, "{asked} waited");
    assert_eq!(granted, 1000 + u64::from(one.left()));
    assert!((30..=80).contains(&one.left()), "75 ms' worth at most, and half at least: {}", one.left());
}

#[test]
fn what_nobody_uses_goes_back_and_is_not_asked_for_again() {
    let mut one = Instance::new(tokens(1000));
    assert!(!one.takes(10, 0));
    let mut first = one.ask(Leases::ALL, 10, 0);
    one.desk.calls(at(0));
    one.desk.settle(&[reply(20, 0, 0)], at(0), at(0));
    assert!(goes(told(&mut first)));
    one.desk.sweep(at(100), false);
    assert!(!one.desk.is_due() && one.left() == 10);
    one.desk.sweep(at(400), false);
    assert_eq!(one.left(), 0);
    let call = one.desk.calls(at(400)).remove(0);
    assert_eq!(wants(&call), (0, 0, 10, 0));
    one.desk.settle(&[reply(0, 0, 990)], at(400), at(400));
    assert!(!one.desk.is_due() && !one.takes(1, 401));
}

#[test]
fn tokens_of_a_window_are_not_used_in_the_next_one() {
    let mut one = Instance::new(settings(1000, Algorithm::FixedWindow));
    let of = |granted, left, valid, window| Reply {
        granted,
        wait: Some(Duration::ZERO),
        left,
        valid: Duration::from_millis(valid),
        window,
    };
    let mut first = one.ask(Leases::ALL, 1, 0);
    one.desk.calls(at(0));
    one.desk.settle(&[of(11, 989, 100, 7)], at(0), at(3));
    assert!(goes(told(&mut first)) && one.takes(1, 50));
    assert!(!one.takes(1, 101), "it ends before the window does, which is counted from when it was asked");
    // The next call gives them back, to their window.
    let mut second = one.ask(Leases::ALL, 1, 110);
    let call = one.desk.calls(at(110)).remove(0);
    assert_eq!((wants(&call).0, wants(&call).2, wants(&call).3), (1, 9, 7));
    one.desk.settle(&[of(5, 995, 990, 8)], at(110), at(110));
    assert!(goes(told(&mut second)));
    assert_eq!(one.left(), 4);
    // Taken out for somebody who waits while the window ends: it asks again for all that it costs.
    let mut third = one.ask(Leases::ALL, 6, 120);
    assert_eq!(wants(&one.desk.calls(at(120))[0]).0, 2);
    one.desk.settle(&[of(2, 998, 990, 9)], at(120), at(121));
    let call = one.desk.calls(at(121)).remove(0);
    assert_eq!((wants(&call).0, wants(&call).2, wants(&call).3), (4, 4, 8));
    one.desk.settle(&[of(4, 994, 990, 9)], at(121), at(121));
    assert!(goes(told(&mut third)));
}

#[test]
fn turns_are_given_one_after_the_other_and_none_ahead() {
    let paced = Algorithm::LeakyBucket { burst: 100, max_wait: Duration::from_secs(1) };
    let mut one = Instance::new(settings(100, paced));
    let mut waiting: Vec<_> = [2, 2, 2, 5].map(|cost| one.ask(Leases::ALL, cost, 0)).into();
    // One goes home.
    waiting[1].close();
    let call = one.desk.calls(at(0)).remove(0);
    let of = &call.arguments;
    assert_eq!((of[4], of[5], of[6], of[7]), (2, 4, 2, 1_000_000), "those in front who cost the same");
    one.desk.settle(&[reply(4, 7, 96)], at(0), at(0));
    let mut answers: VecDeque<_> = waiting.iter_mut().map(told).collect();
    let mut wait = || match answers.pop_front().flatten() {
        Some(Answer::Granted { wait, .. }) => Some(wait.as_millis()),
        _ => None,
    };
    assert_eq!([wait(), wait(), wait(), wait()], [Some(7), None, Some(27), None]);
    assert_eq!(one.left(), 0);
    assert_eq!(one.desk.calls(at(1))[0].arguments[4], 5, "the dear one is next");
}

#[test]
fn whoever_waits_when_redis_goes_away_falls_back_and_leases_end() {
    let mut one = Instance::new(tokens(1000));
    let first = one.ask(Leases::ALL, 10, 0);
    one.desk.calls(at(0));
    one.desk.settle(&[reply(20, 0, 0)], at(0), at(0));
    drop(first);
    let (mut asked, mut due) = (one.ask(Leases::ALL, 50, 1), one.ask(Leases::ALL, 60, 1));
    one.desk.calls(at(1));
    one.desk.fail();
    assert_eq!((told(&mut asked), told(&mut due)), (Some(Answer::Fallback), Some(Answer::Fallback)));
    assert!(!one.desk.is_due() && !one.takes(1, 2));
}

#[test]
fn keys_are_digests_and_a_lease_that_goes_to_another_takes_its_account_along() {
    let mut one = Instance::new(Settings { max_keys: Some(1), ..tokens(1000) });
    for key in 1..=9 {
        let mut waiting = one.ask(key, 1, key);
        let call = one.desk.calls(at(key)).remove(0);
        let digest = call.key.strip_prefix("weir:{orders/checkout}:t:").unwrap();
        assert!(digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
        one.desk.settle(&[reply(1, 0, 0)], at(key), at(key));
        assert!(goes(told(&mut waiting)));
    }
    assert_eq!(one.limit.leases.all().count(), 8);
    assert_eq!(one.desk.limits[&0].accounts.len(), 8, "memory is bounded by the leases");
}

#[test]
fn a_limit_that_is_gone_leaves_nothing() {
    let mut one = Instance::new(tokens(10));
    let mut waiting = one.ask(Leases::ALL, 1, 0);
    one.limit = Instance::new(tokens(10)).limit;
    assert!(one.desk.calls(at(0)).is_empty());
    one.desk.sweep(at(0), false);
    assert!(one.desk.limits.is_empty());
    assert_eq!(told(&mut waiting), None);
}

/// Several instances, one bucket, random requests, silences and ends: what is granted to requests, leased, or on its way
/// back is what left the bucket, at every moment.
#[test]
fn no_token_is_lost_or_made_between_requests_and_redis() {
    for seed in 0..crate::policy::rounds(50) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let burst = rng.u32(1..400);
        let of = Settings { instances: NonZeroU32::new(3).unwrap(), ..tokens(burst) };
        let mut instances: Vec<_> = (0..3).map(|_| Instance::new(of.clone())).collect();
        let (mut bucket, mut used, mut ms) = (burst, 0_u32, 0);
        for _ in 0..300 {
            ms += if rng.u8(..10) == 0 { rng.u64(..2000) } else { rng.u64(..3) };
            let one = &mut instances[rng.usize(..3)];
            let costs: Vec<u32> = (0..rng.usize(..4)).map(|_| rng.u32(1..5)).collect();
            let mut waiting = Vec::new();
            for cost in costs {
                if one.takes(cost, ms) {
                    used += cost;
                } else {
                    let asked = one.ask(Leases::ALL, cost, ms);
                    // Some go home.
                    if rng.u8(..8) > 0 {
                        waiting.push((cost, asked));
                    }
                }
            }
            while let Ok(message) = one.inbox.try_recv() {
                if let super::super::limit::Message::Refill { limit, tag } = message {
                    one.desk.refill((limit, tag));
                }
            }
            if rng.u8(..5) == 0 {
                one.desk.sweep(at(ms), false);
            }
            for _ in 0..20 {
                let Some(call) = one.desk.calls(at(ms)).pop() else { break };
                let (least, most, back, _) = wants(&call);
                bucket += u32::try_from(back).unwrap();
                assert!(bucket <= burst, "nobody gives back what was not theirs");
                let granted =
                    if u64::from(bucket) >= least { bucket.min(u32::try_from(most).unwrap()) } else { 0 };
                bucket -= granted;
                one.desk.settle(&[reply(granted, 1, bucket)], at(ms), at(ms));
            }
            for (cost, mut asked) in waiting {
                match asked.try_recv() {
                    Ok(Answer::Granted { .. }) => used += cost,
                    Ok(Answer::Refused { .. }) => {}
                    other => panic!("{other:?}: nobody is left waiting"),
                }
            }
            let leased: u32 = instances.iter().map(Instance::left).sum();
            let back: u32 = instances
                .iter()
                .flat_map(|one| one.desk.limits[&0].accounts.values())
                .map(|account| account.back)
                .sum();
            assert_eq!(used + leased + back + bucket, burst, "seed {seed}");
            assert!(leased <= burst / 4 + 3 * 4, "{leased} of {burst} are leased ahead");
        }
    }
}
