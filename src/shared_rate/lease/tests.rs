use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::policy::rounds;

fn at(ms: u64) -> Stamp {
    Stamp::from_micros(1_024_000 + ms * 1024)
}

fn granted(held: Held) -> Option<u32> {
    if let Held::Granted { left, .. } = held { Some(left) } else { None }
}

fn lease(tokens: u32, until: Stamp) -> Lease {
    let lease = Lease::default();
    lease.assign(7, at(0));
    assert_eq!(lease.fill(tokens, until), 0);
    lease
}

#[test]
fn it_grants_what_it_holds_to_its_owner_until_its_time() {
    let lease = lease(5, at(10));
    assert_eq!(granted(lease.take(7, 2, at(1))), Some(3));
    assert_eq!(lease.take(7, 4, at(1)), Held::Nothing, "more than there is");
    assert_eq!(lease.take(8, 1, at(1)), Held::Nothing, "another's");
    assert_eq!(granted(lease.take(7, 1, at(9))), Some(2));
    assert_eq!(lease.take(7, 1, at(10)), Held::Nothing, "too late");
    assert_eq!((lease.left(), lease.holds(at(10))), (2, false), "what is too old is there to go back");
    assert_eq!(lease.empty(), 2);
    assert_eq!(lease.empty(), 0);
}

#[test]
fn a_moment_is_never_rounded_to_the_tokens_favour() {
    let lease = lease(5, Stamp::from_micros(10_239));
    assert!(lease.holds(Stamp::from_micros(9215)));
    assert!(!lease.holds(Stamp::from_micros(9216)));
}

#[test]
fn moments_wrap() {
    let late = Stamp::from_micros(((1 << UNTIL_BITS) - 2) << UNIT_SHIFT);
    let lease = lease(5, late.after(Duration::from_millis(10)));
    assert!(lease.holds(late) && lease.holds(late.after(Duration::from_millis(8))));
    assert!(!lease.holds(late.after(Duration::from_millis(11))));
}

#[test]
fn what_does_not_fit_is_said() {
    let lease = lease(MOST - 1, at(10));
    assert_eq!(lease.fill(3, at(10)), 2);
    lease.give_back(7, 1);
    assert_eq!(lease.left(), MOST, "not a bit more");
    assert_eq!(granted(lease.take(7, MOST, at(1))), Some(0));
}

#[test]
fn what_goes_back_may_be_taken_again_by_its_owner_only() {
    let lease = lease(5, at(10));
    assert_eq!(granted(lease.take(7, 3, at(1))), Some(2));
    lease.give_back(8, 1);
    assert_eq!(lease.left(), 2);
    lease.give_back(7, 3);
    assert_eq!(granted(lease.take(7, 5, at(1))), Some(0));
    // Nothing ever came to this owner: what it gives back is not good.
    lease.assign(9, at(2));
    lease.give_back(9, 4);
    assert_eq!(lease.take(9, 1, at(2)), Held::Nothing);
}

#[test]
fn it_asks_once_for_more_and_not_after_a_refusal() {
    let lease = lease(6, at(100));
    lease.mark(40, 5);
    let more = |now| matches!(lease.take(7, 1, now), Held::Granted { more: true, .. });
    assert!(!more(at(1)), "five are not fewer than five");
    assert!(more(at(1)));
    assert!(!more(at(1)), "once");
    lease.mark(40, 5);
    lease.refuse(1, at(5));
    assert!(!more(at(4)), "there was nothing a moment ago");
    assert!(more(at(5)));
    assert_eq!(lease.beyond(), 40);
}

#[test]
fn a_refusal_holds_for_what_costs_as_much_until_it_may_go() {
    let lease = lease(0, at(100));
    lease.refuse(3, Stamp::from_micros(at(5).as_micros() - 1000));
    assert_eq!(lease.take(7, 2, at(1)), Held::Nothing, "it costs less: ask");
    let Held::Refused(rest) = lease.take(7, 4, at(1)) else { panic!("not refused") };
    assert_eq!(rest, at(5).since(at(1)), "rounded up");
    assert!(matches!(lease.take(7, 3, at(4)), Held::Refused(_)));
    assert_eq!(lease.take(7, 3, at(5)), Held::Nothing);
    assert_eq!(lease.missed(), 7);
    assert_eq!(lease.missed(), 0);
    lease.refuse(3, at(50));
    lease.forget();
    assert_eq!(lease.take(7, 3, at(6)), Held::Nothing);
}

#[test]
fn nothing_stays_for_the_next_owner() {
    let lease = lease(5, at(100));
    lease.mark(9, 9);
    lease.refuse(1, at(100));
    lease.assign(8, at(1));
    assert_eq!((lease.take(8, 1, at(1)), lease.take(7, 1, at(1))), (Held::Nothing, Held::Nothing));
    assert_eq!((lease.beyond(), lease.missed(), lease.left()), (0, 0, 0));
    assert_eq!(lease.idle(at(4)), Duration::from_micros(3 * 1024));
}

proptest! {
    /// Whatever happens in whatever order, no token comes from nowhere, and none is granted after its time.
    #[test]
    fn tokens_are_kept(steps in prop::collection::vec((0..5_u8, 0..2000_u32, 0..20_u64), 1..80)) {
        let lease = lease(0, at(0));
        let (mut inside, mut until, mut now) = (0_u64, at(0), at(0));
        for (step, amount, ms) in steps {
            now = now.after(Duration::from_micros(ms * 1024));
            match step {
                0 => {
                    let over = lease.fill(amount, at(0).after(now.since(at(0)) + Duration::from_millis(10)));
                    until = now.after(Duration::from_millis(10));
                    inside += u64::from(amount - over);
                }
                1 | 2 => if let Some(left) = granted(lease.take(7, amount, now)) {
                    prop_assert!(now < until);
                    inside -= u64::from(amount);
                    prop_assert_eq!(u64::from(left), inside);
                },
                3 => { lease.give_back(7, amount); inside += u64::from(amount); }
                _ => { prop_assert_eq!(u64::from(lease.empty()), inside); inside = 0; }
            }
            prop_assert_eq!(u64::from(lease.left()), inside);
        }
    }
}

/// Workers take and give back while the thread fills and empties: each token is somewhere, once.
#[test]
fn no_token_is_taken_twice_by_threads() {
    let (lease, over) = (lease(0, at(0)), AtomicBool::new(false));
    let taken = AtomicU64::new(0);
    let put = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    for cost in [1, 2, 3] {
                        if granted(lease.take(7, cost, at(1))).is_some() {
                            if cost == 2 {
                                lease.give_back(7, 2);
                            } else {
                                taken.fetch_add(u64::from(cost), Relaxed);
                            }
                        }
                    }
                }
            });
        }
        let mut put = 0_u64;
        for round in 0..rounds(20_000) {
            put += u64::from(10 - lease.fill(10, at(100)));
            if round % 3 == 0 {
                put -= u64::from(lease.empty());
            }
        }
        over.store(true, Relaxed);
        put
    });
    assert_eq!(taken.into_inner() + u64::from(lease.left()), put);
}

/// A lease goes from one key to another while workers take for both: nobody gets the other one's.
#[test]
fn no_token_is_taken_by_another_key() {
    let (lease, over) = (lease(0, at(0)), AtomicBool::new(false));
    let taken = [AtomicU64::new(0), AtomicU64::new(0)];
    let put = thread::scope(|scope| {
        for key in [0, 1, 0, 1] {
            let (lease, over, taken) = (&lease, &over, &taken);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    if granted(lease.take(key + 1, 1, at(1))).is_some() {
                        taken[usize::try_from(key).unwrap()].fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let mut put = [0_u64; 2];
        for round in 0..rounds(20_000) {
            let key = round % 2;
            lease.assign(key + 1, at(0));
            let of = &mut put[usize::try_from(key).unwrap()];
            *of += u64::from(8 - lease.fill(8, at(100)));
            std::hint::spin_loop();
            *of -= u64::from(lease.empty());
        }
        over.store(true, Relaxed);
        put
    });
    assert_eq!(taken.map(AtomicU64::into_inner), put);
}
