//! The sites of servos by number, so that each servo names its own in a byte.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pontoon_model::SiteName;

/// The number of the balancer's own site.
pub(super) const OWN: usize = 0;

/// Site names; read by anybody, added to by whoever changes the table, one at a time. None is ever taken out: there are as
/// many as servos stood in since this process began.
#[derive(Debug)]
pub(super) struct Sites(ArcSwap<Vec<SiteName>>);

impl Sites {
    pub(super) fn new(own: SiteName) -> Self {
        Self(ArcSwap::from_pointee(vec![own]))
    }

    /// The number of a site, which it gets with the first question.
    pub(super) fn number(&self, site: &SiteName) -> usize {
        let known = self.0.load();
        known.iter().position(|name| name == site).unwrap_or_else(|| {
            self.0.store(Arc::new(known.iter().chain([site]).cloned().collect()));
            known.len()
        })
    }

    /// The site with a number that [`Sites::number`] gave.
    pub(super) fn name(&self, number: usize) -> SiteName {
        let known = self.0.load();
        known.get(number).unwrap_or(&known[OWN]).clone()
    }
}
