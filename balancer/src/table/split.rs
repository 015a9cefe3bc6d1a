//! Requests of one route that go to two releases: the live one, and one beside it that gets a share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use pontoon_model::{AppName, ServoId};

use super::choose::{Choice, Draw, Wish};
use super::target::Target;

/// Splits by the host name of the route; read by every request once there is any, changed by the updater only.
#[derive(Default)]
pub(super) struct Splits {
    by_route: papaya::HashMap<Box<str>, Arc<Split>>,
    /// The route whose requests are split, by the one beside it.
    by_beside: papaya::HashMap<Box<str>, Box<str>>,
}

/// How one route's requests are split.
#[derive(Debug)]
pub struct Split {
    app: AppName,
    /// The host name of the other release's route.
    pub beside: Box<str>,
    /// How many of 100 requests go there.
    share: AtomicU8,
    /// Answers since the split began: of the live release, and of the other.
    answers: [Answers; 2],
}

/// Answers by the first digit of their status, from 1.
#[derive(Debug, Default)]
struct Answers([AtomicU64; 5]);

impl Splits {
    pub(super) fn is_empty(&self) -> bool {
        self.by_route.is_empty()
    }

    pub(super) fn of(&self, host: &str) -> Option<Arc<Split>> {
        self.by_route.pin().get(host).cloned()
    }

    /// All of them, with their route's host name.
    pub(super) fn all(&self) -> Vec<(Box<str>, Arc<Split>)> {
        self.by_route.pin().iter().map(|(host, split)| (host.clone(), split.clone())).collect()
    }

    /// The route that has this one beside it.
    pub(super) fn leading_to(&self, beside: &str) -> Option<Box<str>> {
        self.by_beside.pin().get(beside).cloned()
    }

    /// What is counted goes on while the other release stays the same.
    pub(super) fn put(&self, app: &AppName, route: &str, beside: &str, share: u8) {
        let splits = self.by_route.pin();
        match splits.get(route).filter(|split| *split.beside == *beside) {
            Some(split) => split.share.store(share, Ordering::Relaxed),
            None => {
                // After a change of the base domain it is another route's.
                self.take(app);
                let answers = Default::default();
                let split = Split { app: app.clone(), beside: beside.into(), share: AtomicU8::new(share), answers };
                splits.insert(route.into(), Arc::new(split));
                self.by_beside.pin().insert(beside.into(), route.into());
            }
        }
    }

    pub(super) fn take(&self, app: &AppName) {
        let (splits, besides) = (self.by_route.pin(), self.by_beside.pin());
        for (route, split) in splits.iter().filter(|(_, split)| split.app == *app) {
            besides.remove(&split.beside);
            splits.remove(route);
        }
    }
}

impl Split {
    /// How many of 100 requests go to the other release.
    pub fn share(&self) -> u8 {
        self.share.load(Ordering::Relaxed)
    }

    /// Answers of the live release, or of the other one, by the first digit of their status.
    pub fn answers(&self, beside: bool) -> [u64; 5] {
        self.answers[usize::from(beside)].0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn answered(&self, beside: bool, status: u16) {
        if let Some(count) = self.answers[usize::from(beside)].0.get(usize::from(status / 100).wrapping_sub(1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The servo to try next, of both releases: a session stays where it is; a request stays with the release it was tried on
    /// first, as long as that has a servo which is well; and no servo of either is left out.
    pub(super) fn choose<'t>(&self, live: &'t Target, beside: &'t Target, wish: &Wish<'_>) -> Choice<'t> {
        if let Some(choice) = live.preferred(wish).or_else(|| beside.preferred(wish)) {
            return choice;
        }
        let goes_beside = match wish.tried.first() {
            Some(first) => beside.has(first.id),
            None => wish.draw.map_or_else(|| Draw::default().number(), Draw::number) < self.share(),
        };
        let both = if goes_beside { [beside, live] } else { [live, beside] };
        if let Some(servo) = both[0].at_once(wish) {
            return Choice::Servo(servo);
        }
        for avoided in [false, true] {
            let mut full = false;
            for target in both {
                match target.look(wish, avoided) {
                    Choice::Servo(servo) => return Choice::Servo(servo),
                    Choice::Full => full = true,
                    Choice::Nobody => {}
                }
            }
            if full {
                return Choice::Full;
            }
        }
        Choice::Nobody
    }
}

impl Target {
    /// Whether it is one of these.
    pub(super) fn has(&self, servo: ServoId) -> bool {
        self.servos().iter().any(|one| one.id == servo)
    }
}
