//! tokio's watch channel, except that who waited first is woken first: tokio itself draws lots.

use std::sync::Arc;

use futures_util::FutureExt;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use tokio::sync::{Notify, watch};

/// openraft's watch channels in unit tests.
pub struct OrderedWatch;

/// See [`OrderedWatch`].
pub struct Sender<T> {
    inner: watch::Sender<T>,
    // After `inner`: who is woken finds it gone.
    waiting: Waiting,
}

/// See [`OrderedWatch`].
pub struct Receiver<T> {
    inner: watch::Receiver<T>,
    waiting: Arc<Notify>,
}

#[derive(Clone)]
struct Waiting(Arc<Notify>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), waiting: self.waiting.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), waiting: self.waiting.clone() }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = watch::Ref<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        let ((sender, receiver), waiting) = (watch::channel(init), Arc::new(Notify::new()));
        (Sender { inner: sender, waiting: Waiting(waiting.clone()) }, Receiver { inner: receiver, waiting })
    }
}

impl<T: Send + Sync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.inner.send(value).map_err(|error| SendError(error.0))?;
        self.waiting.0.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = self.inner.send_if_modified(modify);
        if modified {
            self.waiting.0.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.inner.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { inner: self.inner.subscribe(), waiting: self.waiting.0.clone() }
    }
}

impl<T: Send + Sync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let waiting = self.waiting.clone();
            let mut notified = std::pin::pin!(waiting.notified());
            notified.as_mut().enable();
            if let Some(changed) = self.inner.changed().now_or_never() {
                return changed.map_err(|_| RecvError(()));
            }
            notified.await;
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.inner.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.inner.borrow_and_update()
    }
}
