use proptest::prelude::*;

use super::*;

/// All rates' periods divide it, for shares up to 12: what is counted in its parts is exact.
const PARTS: i128 = 3_600_000_000 * 27_720;
/// A unit of the limiter's clock in such parts, rounded up.
const UNIT: i128 = PARTS / (1 << 20) + 1;

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Take(u32),
    Edit { count: u64, per: u64, burst: u32, share: u32, millis: u64 },
}

fn counts() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..30_u64, 2 => 30..5000_u64, 1 => 5000..=1_000_000_000_u64]
}

fn pers() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1_u64), Just(60), Just(3600)]
}

fn bursts() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 1..20_u32, 1 => 20..5000_u32, 1 => 5000..=1_000_000_000_u32]
}

fn costs() -> impl Strategy<Value = u32> {
    prop_oneof![8 => Just(1_u32), 4 => 1..6_u32, 1 => 6..10_000_u32, 1 => any::<u32>()]
}

fn waits() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..1000_u64,
        4 => 1000..SECOND,
        2 => SECOND..100 * SECOND,
        2 => (0..70_u64).prop_map(|slots| slots * SECOND.div_ceil(15)),
        1 => 100 * SECOND..3 * HOUR,
        1 => 3 * HOUR..240 * HOUR,
    ]
}

fn edits() -> impl Strategy<Value = Step> {
    (counts(), pers(), bursts(), 1..=12_u32, prop_oneof![Just(0_u64), 1..5000_u64])
        .prop_map(|(count, per, burst, share, millis)| Step::Edit { count, per, burst, share, millis })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => costs().prop_map(Step::Take),
        8 => waits().prop_map(Step::Wait),
        1 => edits(),
    ];
    (edits(), proptest::collection::vec(step, 1..120)).prop_map(|(first, mut steps)| {
        steps.insert(0, first);
        steps
    })
}

/// Goes on, and sweeps every hour.
fn wait(limiter: &Limiter, now: &mut u64, span: u64) {
    let end = *now + span;
    while *now < end {
        *now = end.min(*now + HOUR);
        limiter.sweep(at(*now));
    }
}

/// What was refused is granted after exactly the time that was said, if nobody else comes; and then all comes back.
fn exactly(limiter: &Limiter, cost: u32, refusal: Refusal, now: u64) -> Result<(), TestCaseError> {
    prop_assert!(refusal.remaining < cost);
    prop_assert_eq!(refusal.retry_after.is_none(), cost > limiter.most());
    if let Some(after) = refusal.retry_after {
        let then = now + whole(after);
        prop_assert!(then > now);
        prop_assert!(matches!(limiter.peek(0, cost, at(then - 1)), Decision::Refused(_)), "too late");
        prop_assert!(matches!(limiter.peek(0, cost, at(then)), Decision::Granted(_)), "too early");
        is_reset(limiter, now, refusal.reset)?;
    }
    Ok(())
}

/// Then nothing is used, and not before.
fn is_reset(limiter: &Limiter, now: u64, reset: Duration) -> Result<(), TestCaseError> {
    let all = |now: u64| matches!(limiter.peek(0, limiter.most(), at(now)), Decision::Granted(_));
    let then = now + whole(reset);
    prop_assert!(all(then));
    prop_assert!(then == now || !all(then - 1));
    Ok(())
}

/// Peeks and takes: both have to say the same.
fn ask(limiter: &Limiter, cost: u32, now: u64) -> Result<Decision, TestCaseError> {
    let peeked = limiter.peek(0, cost, at(now));
    prop_assert_eq!(peeked, limiter.peek(0, cost, at(now)));
    let decision = limiter.take(0, cost, at(now));
    prop_assert_eq!(peeked, decision);
    if let Decision::Granted(taken) = decision
        && cost > 0
        && !matches!(limiter.settings().algorithm, Algorithm::LeakyBucket { .. })
    {
        is_reset(limiter, now, limiter.reset_of(&taken, at(now)))?;
    }
    Ok(decision)
}

/// A settings' speed in parts of a token a microsecond; exact.
fn speed(settings: &Settings) -> i128 {
    let period = i128::from(whole(settings.rate.per)) * i128::from(settings.share.get());
    assert_eq!(PARTS % period, 0);
    i128::from(settings.rate.count) * (PARTS / period)
}

fn parts(tokens: u32) -> i128 {
    i128::from(tokens) * PARTS
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 400 }))]

    #[test]
    fn a_token_bucket_keeps_the_law_and_its_promise(steps in steps()) {
        let mut now = START;
        let mut limiter = limiter(settings(TOKEN(10), 10, 1));
        let (mut held, mut tolerance) = (parts(10), 2 * UNIT);
        for step in steps {
            match step {
                Step::Wait(span) => {
                    wait(&limiter, &mut now, span);
                    let more = speed(limiter.settings()) * i128::from(span);
                    held = (held + more).min(parts(limiter.most()));
                }
                Step::Edit { count, per, burst, share, .. } => {
                    limiter = limiter.edited(shared(settings(TOKEN(burst), count, per), share), None, at(now));
                    prop_assert_eq!(limiter.most(), burst.div_ceil(share));
                    held = held.min(parts(limiter.most()));
                    tolerance += UNIT;
                }
                Step::Take(cost) => match ask(&limiter, cost, now)? {
                    Decision::Granted(taken) => {
                        held -= parts(cost);
                        prop_assert!(held > -UNIT, "more than the law");
                        prop_assert!(parts(taken.remaining) < held + UNIT);
                        prop_assert!(parts(taken.remaining) + PARTS + tolerance > held);
                    }
                    Decision::Refused(refusal) => {
                        prop_assert!(held < parts(cost) + tolerance, "less than it promised");
                        exactly(&limiter, cost, refusal, now)?;
                    }
                },
            }
        }
    }

    #[test]
    fn a_leaky_bucket_keeps_the_law_and_its_promise(steps in steps()) {
        let mut now = START;
        let mut limiter = limiter(settings(LEAKY(10, 0), 10, 1));
        let (mut queue, mut tolerance, mut longest) = (0_i128, 2 * UNIT, 0_u64);
        for step in steps {
            let speed = speed(limiter.settings());
            match step {
                Step::Wait(span) => {
                    wait(&limiter, &mut now, span);
                    queue = (queue - speed * i128::from(span)).max(0);
                }
                Step::Edit { count, per, burst, share, millis } => {
                    let algorithm = LEAKY(burst, millis);
                    limiter = limiter.edited(shared(settings(algorithm, count, per), share), None, at(now));
                    (longest, tolerance) = (millis * 1000, tolerance + UNIT);
                }
                Step::Take(cost) => {
                    let room = parts(limiter.most()) - parts(cost);
                    let most = room.min(i128::from(longest) * speed);
                    match ask(&limiter, cost, now)? {
                        Decision::Granted(taken) => {
                            prop_assert!(room >= 0 && queue < most + UNIT, "more than the law");
                            let wait = i128::from(whole(taken.wait)) * speed;
                            prop_assert!(wait > queue - UNIT, "too early");
                            prop_assert!(wait < queue + tolerance + speed, "too late");
                            prop_assert!(whole(taken.wait) <= longest);
                            queue += parts(cost);
                        }
                        Decision::Refused(refusal) => {
                            prop_assert!(queue + tolerance > most, "less than promised");
                            prop_assert_eq!(refusal.retry_after.is_none(), cost > limiter.most());
                            if let Some(after) = refusal.retry_after {
                                let then = now + whole(after);
                                prop_assert!(then > now);
                                prop_assert!(matches!(limiter.peek(0, cost, at(then - 1)), Decision::Refused(_)));
                                prop_assert!(matches!(limiter.peek(0, cost, at(then)), Decision::Granted(_)));
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_fixed_window_is_exact(steps in steps()) {
        let mut now = START;
        let mut limiter = limiter(settings(Algorithm::FixedWindow, 10, 1));
        let number = |limiter: &Limiter, now: u64| (whole(UNIX) + now - START) / whole(limiter.unit());
        let (mut window, mut used) = (number(&limiter, now), 0_u64);
        for step in steps {
            if window != number(&limiter, now) {
                (window, used) = (number(&limiter, now), 0);
            }
            match step {
                Step::Wait(span) => wait(&limiter, &mut now, span),
                Step::Edit { count, per, share, .. } => {
                    limiter = limiter.edited(shared(settings(Algorithm::FixedWindow, count, per), share), None, at(now));
                    prop_assert_eq!(u64::from(limiter.most()), ((2 * count + u64::from(share)) / (2 * u64::from(share))).max(1));
                    window = number(&limiter, now);
                }
                Step::Take(cost) => {
                    let fits = used + u64::from(cost) <= u64::from(limiter.most());
                    match ask(&limiter, cost, now)? {
                        Decision::Granted(taken) => {
                            prop_assert!(fits, "more than the law");
                            used += u64::from(cost);
                            prop_assert_eq!(u64::from(taken.remaining), u64::from(limiter.most()) - used);
                        }
                        Decision::Refused(refusal) => {
                            prop_assert!(!fits, "less than it promised");
                            prop_assert_eq!(u64::from(refusal.remaining), u64::from(limiter.most()).saturating_sub(used));
                            exactly(&limiter, cost, refusal, now)?;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_sliding_window_keeps_the_law_and_its_promise(steps in steps()) {
        let mut now = START;
        let mut limiter = limiter(settings(Algorithm::SlidingWindow, 10, 1));
        // When how much was granted; what the law still counts, and what may still be counted.
        let (mut law, mut promise): (Vec<(u64, u64)>, Vec<(u64, u64)>) = (Vec::new(), Vec::new());
        for step in steps {
            let unit = whole(limiter.unit());
            law.retain(|(when, _)| *when + unit > now);
            promise.retain(|(when, _)| *when + 16 * unit.div_ceil(15) > now);
            match step {
                Step::Wait(span) => wait(&limiter, &mut now, span),
                Step::Edit { count, per, share, .. } => {
                    let before = limiter.unit();
                    limiter = limiter.edited(shared(settings(Algorithm::SlidingWindow, count, per), share), None, at(now));
                    if limiter.unit() != before {
                        // What was used in another unit's window counts as used now.
                        law.iter_mut().chain(&mut promise).for_each(|(when, _)| *when = now);
                    }
                }
                Step::Take(cost) => {
                    let sum = |log: &[(u64, u64)]| log.iter().map(|(_, cost)| cost).sum::<u64>() + u64::from(cost);
                    match ask(&limiter, cost, now)? {
                        Decision::Granted(_) => {
                            prop_assert!(sum(&law) <= u64::from(limiter.most()), "more than the law");
                            law.push((now, u64::from(cost)));
                            promise.push((now, u64::from(cost)));
                        }
                        Decision::Refused(refusal) => {
                            prop_assert!(sum(&promise) > u64::from(limiter.most()), "less than it promised");
                            exactly(&limiter, cost, refusal, now)?;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_clock_is_exact(count in counts(), per in pers(), share in 1..=1000_u32, past in prop_oneof![0..HOUR, 0..100 * 8766 * HOUR]) {
        let rate = Rate { count, per: Duration::from_secs(per) };
        let clock = clock::Clock::new(rate, NonZeroU32::new(share).unwrap(), at(START));
        let reading = clock.read(at(START + past));
        let (product, period) = (u128::from(past) * (u128::from(count) << 20), u128::from(per) * 1_000_000 * u128::from(share));
        #[expect(clippy::cast_possible_truncation, reason = "round the circle")]
        let expected = (product / period) as u64;
        prop_assert_eq!(reading, expected);
    }
}
