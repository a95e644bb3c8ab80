//! Work that is done to its end, whoever waits for it.

use std::pin::Pin;
use std::task::{Context, Poll};

/// Polled where it is awaited: a task of its own would wake another worker to begin with, and this one for its result.
/// Whoever is dropped before it is done (the client hung up) leaves the rest to a task.
pub struct Whole<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Whole<T> {
    pub fn of(work: impl Future<Output = T> + Send + 'static) -> Whole<T> {
        Whole(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Whole<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // None only after it was ready, and then nobody polls.
        let Some(work) = self.0.as_mut() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Whole<T> {
    fn drop(&mut self) {
        // A runtime that ends takes no tasks any more; a panic has ended the work.
        if let Some(work) = self.0.take()
            && !std::thread::panicking()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// Two steps, each counted; the second one waits for a word.
    fn work(done: &Arc<AtomicU32>) -> (Whole<u32>, oneshot::Sender<()>) {
        let (word, wait) = oneshot::channel();
        let done = done.clone();
        let whole = Whole::of(async move {
            done.fetch_add(1, Ordering::SeqCst);
            let _ = wait.await;
            done.fetch_add(1, Ordering::SeqCst) + 1
        });
        (whole, word)
    }

    #[tokio::test]
    async fn whoever_waits_has_the_result() {
        let done = Arc::default();
        let (whole, word) = work(&done);
        word.send(()).unwrap();
        assert_eq!(whole.await, 2);
        assert_eq!(done.load(Ordering::SeqCst), 2, "nothing is done twice");
    }

    #[tokio::test]
    async fn who_goes_away_leaves_it_to_be_finished() {
        let done = Arc::default();
        let (whole, word) = work(&done);
        assert!(tokio::time::timeout(Duration::from_millis(1), whole).await.is_err());
        assert_eq!(done.load(Ordering::SeqCst), 1);
        word.send(()).unwrap();
        let finished = async {
            while done.load(Ordering::SeqCst) < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), finished).await.expect("the rest was done");
    }
}
