//! One life of a simulated controller: from its start to its crash. All its tasks carry it.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::events::Event;
use super::lock;
use super::world::World;

thread_local! {
    // Whose task is being polled right now.
    static CURRENT: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// A running process, as far as the simulation goes.
pub(super) struct Life {
    /// Which controller: 0, 1, 2 …
    pub(super) node: usize,
    /// Which start of it.
    pub(super) number: u32,
    pub(super) world: Arc<World>,
    /// Ends with the life.
    pub(super) ended: CancellationToken,
    /// Told to stop: then its consensus may end.
    pub(super) stopping: AtomicBool,
    scheduling: Mutex<Scheduling>,
}

#[derive(Default)]
struct Scheduling {
    ended: bool,
    paused: bool,
    parked: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

impl Life {
    pub(super) fn new(world: Arc<World>, node: usize, number: u32) -> Arc<Self> {
        Arc::new(Self {
            node,
            number,
            world,
            ended: CancellationToken::new(),
            stopping: AtomicBool::new(false),
            scheduling: Mutex::default(),
        })
    }

    /// The life whose task runs now; none outside of a simulated controller.
    pub(super) fn current() -> Option<Arc<Life>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Starts a task of this life.
    pub(super) fn spawn<T>(self: &Arc<Self>, task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let handle = tokio::spawn(Lived { life: self.clone(), task: Box::pin(task) });
        let mut scheduling = lock(&self.scheduling);
        if scheduling.ended {
            handle.abort();
        } else {
            scheduling.tasks.push(handle.abort_handle());
            if scheduling.tasks.len().is_power_of_two() {
                scheduling.tasks.retain(|task| !task.is_finished());
            }
        }
        handle
    }

    /// The process is gone: none of its tasks takes another step.
    pub(super) fn end(&self) {
        let tasks = {
            let mut scheduling = lock(&self.scheduling);
            scheduling.ended = true;
            scheduling.parked.clear();
            std::mem::take(&mut scheduling.tasks)
        };
        self.ended.cancel();
        tasks.iter().for_each(AbortHandle::abort);
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.scheduling).ended
    }

    /// As SIGSTOP: time goes on, the process does not.
    pub(super) fn pause(&self) {
        lock(&self.scheduling).paused = true;
    }

    /// As SIGCONT.
    pub(super) fn resume(&self) {
        let parked = {
            let mut scheduling = lock(&self.scheduling);
            scheduling.paused = false;
            std::mem::take(&mut scheduling.parked)
        };
        parked.into_iter().for_each(Waker::wake);
    }
}

/// A task that runs only while its life does.
struct Lived<T> {
    life: Arc<Life>,
    task: Pin<Box<T>>,
}

impl<T: Future> Future for Lived<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        {
            let mut scheduling = lock(&self.life.scheduling);
            if scheduling.ended {
                return Poll::Pending;
            }
            if scheduling.paused {
                scheduling.parked.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        let _turn = Turn { before: CURRENT.replace(Some(self.life.clone())) };
        let polled = catch_unwind(AssertUnwindSafe(|| self.task.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| {
            // tokio keeps a panic to whoever waits for the task, and mostly nobody does.
            if !is_harmless(&*panic) {
                let (node, life) = (self.life.node, self.life.number);
                let why = "one of its tasks panicked".to_owned();
                self.life.world.observe(Event::Failed { node, life, why });
            }
            resume_unwind(panic)
        })
    }
}

/// Whether an assertion of openraft's asks for too much: the stream to a follower of a controller that led until now may find
/// its log shorter than what it has sent, since the next leader's entries took their place. It looks for another leader right
/// after that, and sends nothing.
fn is_harmless(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|said| said.contains("read_log_entries received reversed range"))
}

/// A step of a life's task, until it is dropped.
struct Turn {
    /// Whose step this one is part of.
    before: Option<Arc<Life>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}
