//! Turns: a socket that lets others have theirs.
//!
//! A task keeps its shard for as long as what it waits for is there. The bytes of a client that
//! sends faster than xksd reads always are: it would have the shard for itself.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll};

use futures_util::{AsyncRead, AsyncWrite};

use crate::limits::READS_IN_A_ROW_MAX;

/// `S`, which after [`READS_IN_A_ROW_MAX`] reads that found something says once that there is
/// nothing, and wakes its task to go on behind the others.
pub(super) struct Fair<S> {
    stream: S,
    /// Since it last said that there is nothing.
    reads: u32,
}

/// Goes on when all others that are ready have had their turn.
pub(super) async fn give_way() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// See [`preempt_with`].
static PREEMPT: OnceLock<fn()> = OnceLock::new();

/// What ends the turn of a shard's queue whose time is over, for the program to set at its start:
/// the executor's own timer is not in the kernel where the program's system calls are led through
/// `xksd-syscall`. Only the first one counts.
pub fn preempt_with(preempt: fn()) {
    let _ = PREEMPT.set(preempt);
}

/// Ends the turn of the running queue if its time is over.
pub(super) fn preempt_if_due() {
    if let Some(preempt) = PREEMPT.get() {
        preempt();
    }
}

/// Runs `task`, and after each of its polls lets the executor see whether time is over for all that
/// are in its queue.
pub(super) async fn in_turns<F: Future>(task: F) -> F::Output {
    let mut task = pin!(task);
    poll_fn(|cx| {
        let polled = task.as_mut().poll(cx);
        preempt_if_due();
        polled
    })
    .await
}

impl<S> Fair<S> {
    pub(super) fn new(stream: S) -> Self {
        Fair { stream, reads: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.reads == READS_IN_A_ROW_MAX {
            self.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.reads = if polled.is_ready() { self.reads + 1 } else { 0 };
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fair<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// How often it was woken.
    #[derive(Default)]
    pub(in crate::shard) struct Count(pub(in crate::shard) AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Has so many reads left, then nothing.
    struct Source(u32);

    impl AsyncRead for Source {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            match self.0.checked_sub(1) {
                Some(left) => {
                    self.0 = left;
                    Poll::Ready(Ok(buf.len()))
                }
                None => Poll::Pending,
            }
        }
    }

    #[test]
    fn a_stream_that_always_has_something_lets_others_have_their_turn() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut fair = Fair::new(Source(u32::MAX));
        for turn in 1..=3 {
            for _ in 0..READS_IN_A_ROW_MAX {
                assert!(Pin::new(&mut fair).poll_read(&mut cx, &mut [0]).is_ready());
            }
            assert!(Pin::new(&mut fair).poll_read(&mut cx, &mut [0]).is_pending());
            assert_eq!(count.0.load(Ordering::SeqCst), turn, "to go on afterwards");
        }
    }

    #[test]
    fn a_stream_that_has_nothing_now_and_then_is_left_alone() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut fair = Fair::new(Source(0));
        for _ in 0..3 {
            fair.stream.0 = READS_IN_A_ROW_MAX;
            for _ in 0..READS_IN_A_ROW_MAX - 1 {
                assert!(Pin::new(&mut fair).poll_read(&mut cx, &mut [0]).is_ready());
            }
            fair.stream.0 = 0;
            assert!(Pin::new(&mut fair).poll_read(&mut cx, &mut [0]).is_pending());
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "the stream itself wakes");
    }
}
