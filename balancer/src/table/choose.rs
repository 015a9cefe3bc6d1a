//! Which servo gets a request: the best tier first, in it the one with fewer requests of two drawn at random.

use std::ops::Range;
use std::sync::Arc;

use rand::RngExt as _;

use super::route::{TIERS, Target};
use super::servo::Servo;

impl Target {
    /// The servo to try next, `tried` ones excepted; none when all were tried.
    ///
    /// Servos that failed a moment ago come after all others, whatever their tier; none is ever left out.
    pub(super) fn choose(&self, tried: &[Arc<Servo>]) -> Option<&Arc<Servo>> {
        let best_tier = self.tiers().find(|tier| !tier.is_empty())?;
        if tried.is_empty() {
            let [one, other] = draw_two(best_tier.len()).map(|at| &self.servos[best_tier.start + at]);
            match (one.is_avoided(), other.is_avoided()) {
                (false, false) => return Some(less_busy(one, other)),
                (false, true) => return Some(one),
                (true, false) => return Some(other),
                (true, true) => {}
            }
        }
        self.choose_slowly(tried)
    }

    /// Looks at every servo: only after a failure.
    fn choose_slowly(&self, tried: &[Arc<Servo>]) -> Option<&Arc<Servo>> {
        let is_left = |servo: &&Arc<Servo>| !tried.iter().any(|tried| Arc::ptr_eq(tried, servo));
        for avoided in [false, true] {
            for tier in self.tiers() {
                let left: Vec<&Arc<Servo>> = self.servos[tier]
                    .iter()
                    .filter(is_left)
                    // Told apart once per pass; a servo whose avoidance ends between the passes is found by the
                    // second, which therefore takes all.
                    .filter(|servo| avoided || !servo.is_avoided())
                    .collect();
                if !left.is_empty() {
                    let [one, other] = draw_two(left.len()).map(|at| left[at]);
                    return Some(less_busy(one, other));
                }
            }
        }
        None
    }

    fn tiers(&self) -> impl Iterator<Item = Range<usize>> {
        (0..TIERS).map(|tier| {
            let start = if tier == 0 { 0 } else { self.tier_ends[tier - 1] };
            start as usize..self.tier_ends[tier] as usize
        })
    }
}

fn less_busy<'a>(one: &'a Arc<Servo>, other: &'a Arc<Servo>) -> &'a Arc<Servo> {
    if other.in_flight() < one.in_flight() { other } else { one }
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
    use pontoon_model::{ServoId, SiteName};

    /// `specs`: tier of each servo; ids count from 0.
    fn target(tiers: &[usize]) -> (Target, Vec<Arc<Servo>>) {
        let servos: Vec<_> = (0..tiers.len())
            .map(|id| {
                let address = format!("127.0.0.1:{}", id + 1).parse().unwrap();
                Arc::new(Servo::new(ServoId(id as u64), SiteName::new("a").unwrap(), address, Arc::default()))
            })
            .collect();
        let placed = tiers.iter().copied().zip(servos.iter().cloned()).collect();
        (Target::new(None, "", placed), servos)
    }

    fn order(target: &Target) -> Vec<u64> {
        let mut tried = Vec::new();
        while let Some(servo) = target.choose(&tried) {
            tried.push(servo.clone());
        }
        tried.iter().map(|servo| servo.id.0).collect()
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
        servos[0].avoid();
        assert_eq!(order(&target), [1, 2, 0]);
        let (alone, servos) = super::tests::target(&[0]);
        servos[0].avoid();
        assert_eq!(order(&alone), [0]);
    }

    #[test]
    fn of_two_the_less_busy_one_is_taken() {
        let (target, servos) = target(&[0, 0]);
        let _busy = Servo::enter(&servos[0]).unwrap();
        for _ in 0..50 {
            assert_eq!(target.choose(&[]).unwrap().id, ServoId(1));
        }
    }

    #[test]
    fn equal_servos_share_the_requests() {
        let (target, _) = target(&[0; 4]);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[target.choose(&[]).unwrap().id.0 as usize] += 1;
        }
        // 1000 each, standard deviation 27: 700 is eleven of them away.
        assert!(counts.iter().all(|&count| count > 700), "{counts:?}");
    }
}
