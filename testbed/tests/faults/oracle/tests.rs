//! The oracle itself: a right history passes, and each kind of wrong one is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Event, Gap, History, Key, Look, Operation, Timeline, Value, What};

const KEY: Key = Key { app: 0, label: 0 };

fn value(number: u32) -> Value {
    Value { client: 1, number }
}

fn operation(what: What, called: u64, returned: Option<u64>, index: Option<u64>) -> Operation {
    let millis = Duration::from_millis;
    Operation { key: KEY, what, called: millis(called), returned: returned.map(millis), index }
}

fn write(number: u32, called: u64, returned: u64, index: u64) -> Operation {
    operation(What::Write(value(number)), called, Some(returned), Some(index))
}

fn unanswered(number: u32, called: u64) -> Operation {
    operation(What::Write(value(number)), called, None, None)
}

fn values(number: Option<u32>) -> BTreeMap<usize, Value> {
    number.map(|number| (0, value(number))).into_iter().collect()
}

fn event(index: u64, number: u32) -> Event {
    Event { index, app: 0, values: values(Some(number)) }
}

impl History {
    fn of(operations: Vec<Operation>) -> Self {
        Self { operations, ..Self::default() }
    }

    fn read(mut self, number: Option<u32>, called: u64, returned: u64, index: u64) -> Self {
        let look = Look { index, at_least: 0, app: 0, values: values(number) };
        self.look(7, look, 1, Some((Duration::from_millis(called), Duration::from_millis(returned))));
        self
    }

    fn stale(mut self, number: Option<u32>, at_least: u64, index: u64) -> Self {
        self.look(8, Look { index, at_least, app: 0, values: values(number) }, 1, None);
        self
    }

    fn told(mut self, events: Vec<Event>, gaps: Vec<Gap>, complete_to: u64) -> Self {
        self.timelines.push(Timeline { events, gaps, complete_to, reconnects: 0 });
        self
    }

    fn refused(&self, part: &str) {
        let error = format!("{:#}", self.check().expect_err(part));
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Two writes one after the other, a third at the same time as a read, a fourth without an answer.
fn right() -> History {
    let writes =
        vec![write(1, 0, 10, 101), write(2, 20, 30, 102), write(3, 40, 60, 103), unanswered(4, 70), unanswered(5, 75)];
    History::of(writes)
        .read(None, 0, 5, 100)
        .read(Some(2), 45, 50, 102)
        .read(Some(3), 65, 66, 103)
        .read(Some(4), 80, 90, 104)
        .stale(Some(1), 101, 101)
        .told(vec![event(101, 1), event(102, 2), event(103, 3), event(104, 4)], vec![], 110)
}

#[test]
fn a_right_history_is_accepted_also_with_writes_of_unknown_fate() {
    right().check().unwrap();
    assert_eq!(right().acknowledged(), 3);
}

#[test]
fn a_value_reads_back_and_nothing_like_it_does() {
    let text = value(12).text();
    assert_eq!((text.len(), Value::of_text(&text)), (200, Some(value(12))));
    assert_eq!(Value::of_text(&text[..199]), None);
    assert_eq!(Value::of_text(&text.replacen("12", "13", 1)), None);
}

#[test]
fn a_lost_write_is_refused() {
    let lost = History::of(vec![write(1, 0, 10, 101)]).read(None, 20, 30, 102);
    lost.refused("found nothing");
    History::of(vec![write(1, 0, 10, 101)]).told(vec![], vec![], 101).check().unwrap();
    let told = History::of(vec![write(1, 0, 10, 101), write(2, 20, 30, 102)]);
    told.told(vec![event(102, 2)], vec![], 103).refused("never told");
}

#[test]
fn a_stale_read_is_refused() {
    let stale = History::of(vec![write(1, 0, 10, 101), write(2, 20, 30, 102)]).read(Some(1), 40, 50, 103);
    stale.refused("lost or stale");
    // Two reads while a write is under way: the second may not go back behind the first.
    let writes = vec![write(1, 0, 10, 101), write(2, 20, 90, 102)];
    let back = History::of(writes).read(Some(2), 30, 40, 102).read(Some(1), 50, 60, 102);
    back.refused("not linearizable");
    let mut other = right();
    other.looks[1].values = values(Some(1));
    other.refused("the events up to there say");
    right().stale(Some(2), 103, 102).refused("asked for index 103");
}

#[test]
fn a_phantom_is_refused() {
    right().read(Some(9), 95, 96, 105).refused("phantom");
    right().stale(Some(9), 0, 105).refused("phantom");
    right().told(vec![event(101, 9)], vec![], 101).refused("phantom");
}

#[test]
fn an_index_that_goes_back_is_refused() {
    let mut back = right();
    back.indexes.entry(7).or_default().push(3);
    back.refused("client 7 was answered at index");
}

#[test]
fn events_that_go_back_or_repeat_a_write_or_turn_the_order_are_refused() {
    let writes = || History::of(vec![write(1, 0, 10, 101), write(2, 20, 30, 102)]);
    writes().told(vec![event(102, 2), event(101, 1)], vec![], 102).refused("came after one of");
    writes().told(vec![event(101, 1), event(102, 2), event(103, 1)], vec![], 103).refused("applied twice");
    let turned = History::of(vec![write(1, 0, 10, 105), write(2, 20, 30, 105)]);
    turned.told(vec![event(101, 2), event(102, 1)], vec![], 105).refused("and yet applied after it");
    let vanished = writes().told(vec![event(101, 1), Event { values: values(None), ..event(102, 2) }], vec![], 102);
    vanished.refused("vanished");
}

#[test]
fn what_was_compacted_is_not_judged_and_what_is_around_it_is() {
    let writes = || History::of(vec![write(1, 0, 10, 101), write(2, 20, 30, 102), write(3, 40, 50, 110)]);
    let gap = || vec![Gap { app: 0, after: 100, until: 105 }];
    let inside = writes().stale(Some(1), 0, 101).told(vec![event(105, 2), event(110, 3)], gap(), 111);
    inside.check().unwrap();
    writes().stale(Some(1), 0, 106).told(vec![event(105, 2), event(110, 3)], gap(), 111).refused("since 105");
}

#[test]
fn two_writes_of_one_entry_leave_one_event() {
    let together = History::of(vec![write(1, 0, 10, 101), write(2, 5, 12, 101)]);
    together.told(vec![event(101, 2)], vec![], 101).check().unwrap();
}
