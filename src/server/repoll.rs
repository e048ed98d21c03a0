//! A future that wakes itself is polled again at once, a few times.
//!
//! Whoever reads a body asks for its next part as soon as it has one, and hyper takes that as a wake-up of the
//! connection, in the middle of its own poll. To the runtime a task that was woken while it ran is one more to run: it
//! wakes an idle worker, which takes the task away from the caches that know it, for each 64 KiB of an upload.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use tokio::task::coop;

/// After so many polls in a row others get their turn: four parts of a body take some 150 µs.
const IN_A_ROW: usize = 4;

/// Nobody polls: a wake-up goes to the task.
const IDLE: u8 = 0;
/// It is being polled: a wake-up is kept for the end of that.
const POLLED: u8 = 1;
/// It was woken while it was polled.
const WOKEN: u8 = 2;

#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let kept = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state != IDLE).then_some(WOKEN)
            });
        if kept.is_err() {
            self.task.wake();
        }
    }
}

/// The same future, polled again where it woke itself.
pub(super) async fn repolled<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let wakes = Arc::<Wakes>::default();
    let waker = Waker::from(wakes.clone());
    poll_fn(|cx| {
        wakes.task.register(cx.waker());
        let mut again = Context::from_waker(&waker);
        for _ in 0..IN_A_ROW {
            wakes.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(output) = future.as_mut().poll(&mut again) {
                return Poll::Ready(output);
            }
            if wakes.state.swap(IDLE, Ordering::AcqRel) != WOKEN {
                return Poll::Pending;
            }
            // A task that has had its share would only be told so again.
            if !coop::has_budget_remaining() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, sync::atomic::AtomicUsize, thread};

    use tokio::{runtime::Runtime, sync::oneshot};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Task {
        fn woken(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    /// Polls once, and says what came of it and how often the task was woken.
    fn poll_once<F: Future>(future: Pin<&mut F>) -> (bool, usize) {
        let task = Arc::<Task>::default();
        let waker = Waker::from(task.clone());
        let is_ready = future.poll(&mut Context::from_waker(&waker)).is_ready();
        (is_ready, task.woken())
    }

    fn runtime() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().expect("a runtime")
    }

    /// Is ready at that poll, and wakes itself at each before.
    fn wakes_itself(polls: usize) -> impl Future<Output = ()> {
        let mut polled = 0;
        poll_fn(move |cx| {
            polled += 1;
            if polled == polls {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn what_wakes_itself_is_polled_again_without_its_task() {
        let future = pin!(repolled(wakes_itself(IN_A_ROW)));
        assert_eq!(poll_once(future), (true, 0));
    }

    #[test]
    fn after_some_polls_others_get_their_turn() {
        let mut future = pin!(repolled(wakes_itself(IN_A_ROW + 1)));
        assert_eq!(poll_once(future.as_mut()), (false, 1));
        assert_eq!(poll_once(future), (true, 0));
    }

    #[test]
    fn who_waits_for_somebody_else_wakes_the_task() {
        let (tell, told) = oneshot::channel();
        let task = Arc::<Task>::default();
        let waker = Waker::from(task.clone());
        let mut future = pin!(repolled(told));
        let mut cx = Context::from_waker(&waker);
        assert!(future.as_mut().poll(&mut cx).is_pending());
        assert_eq!(task.woken(), 0);
        tell.send(()).expect("it is waited for");
        assert_eq!(task.woken(), 1);
        assert!(future.poll(&mut cx).is_ready());
    }

    #[test]
    fn a_task_without_a_share_left_is_left_alone() {
        runtime().block_on(async {
            while coop::has_budget_remaining() {
                let _ = poll_once(pin!(coop::consume_budget()));
            }
            let mut future = pin!(repolled(wakes_itself(2)));
            assert_eq!(poll_once(future.as_mut()), (false, 1));
        });
    }

    /// Many times over, since it is a race.
    #[test]
    fn no_wake_up_by_another_thread_is_lost() {
        let runtime = runtime();
        for _ in 0..2_000 {
            let (tell, told) = oneshot::channel();
            let teller = thread::spawn(move || tell.send(()));
            runtime.block_on(repolled(told)).expect("it was sent");
            teller.join().expect("no panic").expect("it is waited for");
        }
    }
}
