//! What a route that is awake leads to.

use std::sync::Arc;

use super::servo::Servo;

/// What a route leads to at one version, as requests need it.
#[derive(Debug)]
pub struct Target {
    /// Why there is no servo; empty if there are some.
    pub reason: Box<str>,
    /// Ordered by tier: this site's, other sites', this site's suspects, other sites' suspects.
    pub(super) servos: Box<[Arc<Servo>]>,
    /// Where each tier ends in `servos`.
    pub(super) tier_ends: [u32; TIERS],
}

/// See [`Target::servos`].
pub(super) const TIERS: usize = 4;
/// Servos of this tier and later ones are suspect.
const FIRST_SUSPECT_TIER: usize = 2;

impl Target {
    /// `servos`: each with its tier.
    pub(super) fn new(reason: &str, mut servos: Vec<(usize, Arc<Servo>)>) -> Self {
        servos.sort_by_key(|(tier, servo)| (*tier, servo.id));
        let mut tier_ends = [0; TIERS];
        for (tier, end) in tier_ends.iter_mut().enumerate() {
            *end = servos.partition_point(|(of, _)| *of <= tier) as u32;
        }
        let servos = servos.into_iter().map(|(_, servo)| servo).collect();
        Self { reason: reason.into(), servos, tier_ends }
    }

    /// The tier of a servo.
    pub(super) fn tier(local: bool, suspect: bool) -> usize {
        if suspect { FIRST_SUSPECT_TIER + usize::from(!local) } else { usize::from(!local) }
    }

    /// All of them, in the order of their tiers.
    pub fn servos(&self) -> &[Arc<Servo>] {
        &self.servos
    }

    /// How many servos there are.
    pub fn len(&self) -> usize {
        self.servos.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.servos.is_empty()
    }
}
