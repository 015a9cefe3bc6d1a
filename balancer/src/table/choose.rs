//! Which servo gets a request: the best tier first, in it the one with fewer requests of two drawn at random.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pontoon_model::{ServoId, SiteName, Traffic};
use rand::RngExt as _;

use super::servo::Servo;
use super::target::{TIERS, Target};

/// A new servo gets at least this part of what the others get: without any requests it would never become warm.
const LEAST_SHARE: f64 = 0.1;

/// What a request asks of the choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Not these.
    pub tried: &'a [Arc<Servo>],
    /// This one if it is well: where the client's session is.
    pub prefer: Option<ServoId>,
    /// Requests a servo may have at a time; 0: any number.
    pub most: u32,
    /// How long a servo counts as new.
    pub slow_start: Duration,
    /// None of these sites.
    pub spent: &'a [SiteName],
    /// Only of this site.
    pub within: Option<&'a SiteName>,
    /// Which release a request goes to whose route is split: drawn once, however often a servo is looked for.
    pub draw: Option<&'a Draw>,
}

/// A number below 100, once it is asked for.
#[derive(Debug)]
pub struct Draw(AtomicU8);

impl Default for Draw {
    fn default() -> Self {
        Self(AtomicU8::new(u8::MAX))
    }
}

impl Draw {
    /// The number.
    pub(super) fn number(&self) -> u8 {
        match self.0.load(Ordering::Relaxed) {
            u8::MAX => {
                let drawn = rand::rng().random_range(0..100);
                self.0.store(drawn, Ordering::Relaxed);
                drawn
            }
            drawn => drawn,
        }
    }
}

impl<'a> Wish<'a> {
    /// By an app's settings.
    pub fn of(traffic: &Traffic, tried: &'a [Arc<Servo>], prefer: Option<ServoId>) -> Self {
        let slow_start = Duration::from_millis(traffic.slow_start_ms.into());
        Self { tried, prefer, most: traffic.servo_requests, slow_start, spent: &[], within: None, draw: None }
    }
}

/// What became of it.
pub(super) enum Choice<'a> {
    Servo(&'a Arc<Servo>),
    /// Those that are left have as many requests as they may.
    Full,
    /// All were tried.
    Nobody,
}

impl Target {
    /// The servo to try next.
    ///
    /// Servos that failed and have not shown since that they are well come after all others, whatever their tier; none is
    /// ever left out.
    pub(super) fn choose(&self, wish: &Wish<'_>) -> Choice<'_> {
        if let Some(choice) = self.preferred(wish) {
            return choice;
        }
        if let Some(servo) = self.at_once(wish) {
            return Choice::Servo(servo);
        }
        // To wait for one that is well is better than to try one that is not.
        match self.look(wish, false) {
            Choice::Nobody => self.look(wish, true),
            found => found,
        }
    }

    /// The servo of the client's session, while it is well.
    pub(super) fn preferred(&self, wish: &Wish<'_>) -> Option<Choice<'_>> {
        let preferred = wish.prefer.and_then(|id| self.servos.iter().find(|servo| servo.id == id))?;
        let fits = wish.is_left(preferred) && !preferred.is_avoided();
        // A session does not move because its servo is busy.
        fits.then(|| if preferred.has_room(wish.most) { Choice::Servo(preferred) } else { Choice::Full })
    }

    /// For the first try of a request: one of two of the best tier, if they are well and have room.
    pub(super) fn at_once(&self, wish: &Wish<'_>) -> Option<&Arc<Servo>> {
        let best_tier = self.tiers().find(|tier| !tier.is_empty())?;
        // The first tier is that of this site.
        let fits_all = wish.spent.is_empty() && (wish.within.is_none() || best_tier == (0..self.tier_ends[0] as usize));
        if !(wish.tried.is_empty() && fits_all) {
            return None;
        }
        let [one, other] = draw_two(best_tier.len()).map(|at| &self.servos[best_tier.start + at]);
        let fits = |servo: &Servo| !servo.is_avoided() && servo.has_room(wish.most);
        match (fits(one), fits(other)) {
            (true, true) => Some(wish.better(one, other)),
            (true, false) => Some(one),
            (false, true) => Some(other),
            (false, false) => None,
        }
    }

    /// Looks at every servo that is well, or at every one: only after a failure, or when servos are full.
    pub(super) fn look(&self, wish: &Wish<'_>, avoided: bool) -> Choice<'_> {
        let mut full = false;
        for tier in self.tiers() {
            let left = self.servos[tier]
                .iter()
                .filter(|servo| wish.is_left(servo))
                // A servo whose avoidance ends between two looks is found by the second, which therefore takes all.
                .filter(|servo| avoided || !servo.is_avoided());
            let (with_room, without): (Vec<_>, Vec<_>) = left.partition(|servo| servo.has_room(wish.most));
            full |= !without.is_empty();
            if !with_room.is_empty() {
                let [one, other] = draw_two(with_room.len()).map(|at| with_room[at]);
                return Choice::Servo(wish.better(one, other));
            }
        }
        if full { Choice::Full } else { Choice::Nobody }
    }

    /// The sites of servos that are as good a choice as `servo`: of its tier, and not tried yet.
    pub(crate) fn sites_like(&self, servo: &Arc<Servo>, wish: &Wish<'_>) -> Vec<SiteName> {
        let is_it = |at: usize| Arc::ptr_eq(&self.servos[at], servo);
        let tier = self.tiers().find(|tier| tier.clone().any(is_it));
        let mut sites = vec![servo.site.clone()];
        for other in tier.into_iter().flatten().map(|at| &self.servos[at]) {
            if wish.is_left(other) && other.is_avoided() == servo.is_avoided() && !sites.contains(&other.site) {
                sites.push(other.site.clone());
            }
        }
        sites
    }

    /// The sites of all servos, but for `own` and those that are spent.
    pub(crate) fn sites_beyond(&self, own: &SiteName, spent: &[SiteName]) -> Vec<SiteName> {
        let mut sites = Vec::new();
        for servo in &self.servos {
            if servo.site != *own && !spent.contains(&servo.site) && !sites.contains(&servo.site) {
                sites.push(servo.site.clone());
            }
        }
        sites
    }

    fn tiers(&self) -> impl Iterator<Item = Range<usize>> {
        (0..TIERS).map(|tier| {
            let start = if tier == 0 { 0 } else { self.tier_ends[tier - 1] };
            start as usize..self.tier_ends[tier] as usize
        })
    }
}

impl Wish<'_> {
    fn is_left(&self, servo: &Arc<Servo>) -> bool {
        !self.tried.iter().any(|tried| Arc::ptr_eq(tried, servo))
            && !self.spent.contains(&servo.site)
            && self.within.is_none_or(|within| *within == servo.site)
    }

    fn better<'s>(&self, one: &'s Arc<Servo>, other: &'s Arc<Servo>) -> &'s Arc<Servo> {
        let (better, worse) = if other.in_flight() < one.in_flight() { (other, one) } else { (one, other) };
        if self.slow_start.is_zero() || self.is_let_in(better) { better } else { worse }
    }

    /// Whether a servo that may be new gets this one: the older it is, the more often.
    fn is_let_in(&self, servo: &Servo) -> bool {
        let share = servo.age().as_secs_f64() / self.slow_start.as_secs_f64();
        share >= 1.0 || rand::rng().random_bool(share.max(LEAST_SHARE))
    }
}

/// Two different places out of `len` (which is not 0), or the only one twice.
fn draw_two(len: usize) -> [usize; 2] {
    if len == 1 {
        return [0, 0];
    }
    let mut random = rand::rng();
    let one = random.random_range(0..len);
    let other = random.random_range(0..len - 1);
    [one, if other >= one { other + 1 } else { other }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::millis;
    use crate::table::servo::Failure;
    use pontoon_model::SiteName;

    /// `specs`: tier of each servo; ids count from 0.
    fn target(tiers: &[usize]) -> (Target, Vec<Arc<Servo>>) {
        let servos: Vec<_> = (0..tiers.len())
            .map(|id| {
                let address = format!("127.0.0.1:{}", id + 1).parse().unwrap();
                Arc::new(Servo::new(
                    ServoId(id as u64),
                    SiteName::new("a").unwrap(),
                    address,
                    millis::now(),
                    Arc::default(),
                ))
            })
            .collect();
        let placed = tiers.iter().copied().zip(servos.iter().cloned()).collect();
        (Target::new("", placed), servos)
    }

    fn any<'a>(tried: &'a [Arc<Servo>]) -> Wish<'a> {
        Wish::of(&Traffic::default(), tried, None)
    }

    fn chosen(target: &Target, wish: &Wish<'_>) -> Option<u64> {
        match target.choose(wish) {
            Choice::Servo(servo) => Some(servo.id.0),
            Choice::Full | Choice::Nobody => None,
        }
    }

    fn order(target: &Target) -> Vec<u64> {
        let mut tried = Vec::new();
        while let Choice::Servo(servo) = target.choose(&any(&tried)) {
            tried.push(servo.clone());
        }
        tried.iter().map(|servo| servo.id.0).collect()
    }

    fn shares(target: &Target, wish: &Wish<'_>) -> Vec<usize> {
        let mut counts = vec![0; target.len()];
        for _ in 0..4000 {
            counts[chosen(target, wish).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn every_servo_is_tried_once_in_the_order_of_tiers() {
        let (target, _) = target(&[3, 2, 1, 0]);
        assert_eq!(order(&target), [3, 2, 1, 0]);
        assert!(order(&super::tests::target(&[]).0).is_empty());
    }

    #[test]
    fn one_that_failed_comes_last_but_comes() {
        let (target, servos) = target(&[0, 1, 3]);
        servos[0].failed(Failure::Unreached);
        assert_eq!(order(&target), [1, 2, 0]);
        let (alone, servos) = super::tests::target(&[0]);
        servos[0].failed(Failure::Unreached);
        assert_eq!(order(&alone), [0]);
    }

    #[test]
    fn of_two_the_less_busy_one_is_taken() {
        let (target, servos) = target(&[0, 0]);
        let _busy = Servo::enter(&servos[0], 0).unwrap();
        for _ in 0..50 {
            assert_eq!(chosen(&target, &any(&[])), Some(1));
        }
    }

    #[test]
    fn equal_servos_share_the_requests() {
        let (target, _) = target(&[0; 4]);
        // 1000 each, standard deviation 27: 700 is eleven of them away.
        let counts = shares(&target, &any(&[]));
        assert!(counts.iter().all(|&count| count > 700), "{counts:?}");
    }

    #[test]
    fn a_session_stays_with_its_servo_until_that_fails() {
        let (target, servos) = target(&[0, 0, 1]);
        let wish = Wish { prefer: Some(ServoId(2)), ..any(&[]) };
        assert!((0..50).all(|_| chosen(&target, &wish) == Some(2)), "in another site too");
        servos[2].failed(Failure::Broken);
        assert!((0..50).all(|_| chosen(&target, &wish) != Some(2)));
        let gone = Wish { prefer: Some(ServoId(9)), ..any(&[]) };
        assert!(chosen(&target, &gone).is_some());
    }

    #[test]
    fn full_servos_get_nothing_and_one_that_failed_is_not_taken_in_their_place() {
        let (target, servos) = target(&[0, 0, 1]);
        let wish = Wish { most: 1, ..any(&[]) };
        let first = Servo::enter(&servos[0], 1).unwrap();
        assert!((0..50).all(|_| chosen(&target, &wish) == Some(1)));
        let _second = Servo::enter(&servos[1], 1).unwrap();
        assert_eq!(chosen(&target, &wish), Some(2), "another tier has room");
        servos[2].failed(Failure::Unreached);
        assert!(matches!(target.choose(&wish), Choice::Full));
        drop(first);
        assert_eq!(chosen(&target, &wish), Some(0));
    }

    #[test]
    fn a_new_servo_begins_slowly() {
        let (target, servos) = target(&[0, 0]);
        servos[0].make_older(Duration::from_secs(1_000));
        let wish = Wish { slow_start: Duration::from_secs(500), ..any(&[]) };
        let counts = shares(&target, &wish);
        // A tenth of the half it would have: 200 of 4000.
        assert!((50..500).contains(&counts[1]), "{counts:?}");
        servos[1].make_older(Duration::from_secs(1_000));
        assert!(shares(&target, &wish).iter().all(|&count| count > 1_500));
    }
}
