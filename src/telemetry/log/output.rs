//! Where the lines go, and those that do not arrive.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes that are gathered at most before they are written.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// Somebody else may have made the pipe or terminal one that does not wait: then we do, so long
/// before each further try.
const WAIT_TIME: Duration = Duration::from_millis(5);

/// Lines of the log that nobody will ever read.
#[derive(Debug, Default)]
pub struct Lost {
    behind: AtomicU64,
    unwritable: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Lost {
    /// Since the start, because they came faster than they could be written.
    pub fn behind(&self) -> u64 {
        self.behind.load(Ordering::Relaxed)
    }

    /// Since the start, because the operating system did not take them: a full disk, a reader that
    /// has gone.
    pub fn unwritable(&self) -> u64 {
        self.unwritable.load(Ordering::Relaxed)
    }

    /// Why the last line was not written; `None` when it was.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count_behind(&self) {
        self.behind.fetch_add(1, Ordering::Relaxed);
    }

    fn set_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// Gathers lines and writes them.
pub(super) struct Output<'a, W> {
    out: W,
    pub(super) lost: &'a Lost,
    /// Whole lines, behind one line end that is written only after a torn line.
    gathered: Vec<u8>,
    /// The last byte that was written is not the end of a line.
    is_torn: bool,
    /// The last write failed.
    is_failing: bool,
    /// Why the last write that failed did.
    pub(super) last_error: String,
}

impl<'a, W: Write> Output<'a, W> {
    pub(super) fn new(out: W, lost: &'a Lost) -> Self {
        Output {
            out,
            lost,
            gathered: vec![b'\n'],
            is_torn: false,
            is_failing: false,
            last_error: String::new(),
        }
    }

    /// Whole lines, to be written soon.
    pub(super) fn lines(&mut self, text: &[u8]) {
        self.gathered.extend_from_slice(text);
        if self.gathered.len() > GATHERED_BYTES_MAX {
            self.write();
        }
    }

    /// From now on lines go there; those that were gathered go where lines went before.
    pub(super) fn divert(&mut self, out: W) {
        self.write();
        self.out = out;
        self.is_torn = false;
    }

    /// Writes what is gathered. What the operating system does not take is lost, and counted.
    pub(super) fn write(&mut self) {
        let lost = self.try_write();
        self.lost.unwritable.fetch_add(lost, Ordering::Relaxed);
    }

    /// Writes `line`, which is not counted where it is lost, since it will be tried again. True
    /// where it was written.
    pub(super) fn notice(&mut self, line: &[u8]) -> bool {
        self.write();
        self.gathered.extend_from_slice(line);
        self.try_write() == 0
    }

    /// Gives the number of lines that were not written.
    fn try_write(&mut self) -> u64 {
        let mut at = usize::from(!self.is_torn);
        let mut failure = None;
        while at < self.gathered.len() && failure.is_none() {
            // After a torn line its end alone is nothing worth writing.
            if self.gathered.len() == 1 {
                break;
            }
            match self.out.write(&self.gathered[at..]) {
                Ok(0) => failure = Some("nothing was written".to_owned()),
                Ok(bytes) => at += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(WAIT_TIME);
                }
                Err(error) => failure = Some(error.to_string()),
            }
        }
        let lost = self.gathered[at.max(1)..].iter().filter(|byte| **byte == b'\n').count();
        if at > 0 && self.gathered.len() > 1 {
            self.is_torn = self.gathered[at - 1] != b'\n';
        }
        if self.gathered.len() > 1 && (failure.is_some() || self.is_failing) {
            self.is_failing = failure.is_some();
            if let Some(failure) = &failure {
                self.last_error.clone_from(failure);
            }
            self.lost.set_error(failure);
        }
        self.gathered.truncate(1);
        lost as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of so many bytes.
    #[derive(Default)]
    struct Disk {
        free: usize,
        text: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.free);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.free -= taken;
            self.text.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Each line is either whole in the text, or counted; whatever the space of the disk, and
    /// wherever it ends.
    #[test]
    fn a_line_is_whole_or_counted() {
        for free in 0..40 {
            let (mut disk, lost) = (Disk { free, ..Disk::default() }, Lost::default());
            let mut output = Output::new(&mut disk, &lost);
            output.lines(b"one\ntwo\n");
            output.lines(b"three\n");
            output.write();
            output.lines(b"four\n");
            output.write();
            let failed = free < 19;
            assert_eq!(lost.error().is_some(), failed, "{free}");
            output.out.free = 1000;
            output.lines(b"five\n");
            output.write();
            assert!(output.notice(b"notice\n"));
            assert_eq!(lost.error(), None, "{free}");
            let text = String::from_utf8(disk.text).unwrap();
            let whole = text
                .lines()
                .filter(|line| ["one", "two", "three", "four", "five", "notice"].contains(line));
            let torn = usize::from(text.lines().count() > whole.clone().count());
            assert!(text.ends_with("five\nnotice\n"), "{free}: {text}");
            // Six, and one that was counted because its end came late.
            let counted = whole.count() as u64 + lost.unwritable();
            assert!(counted == 6 || counted == 7 && failed, "{free}: {text}");
            assert!(torn == 0 || failed, "{free}: {text}");
        }
    }

    #[test]
    fn a_notice_that_is_lost_is_not_counted() {
        let (mut disk, lost) = (Disk::default(), Lost::default());
        let mut output = Output::new(&mut disk, &lost);
        output.lines(b"one\n");
        assert!(!output.notice(b"notice\n"));
        assert_eq!(lost.unwritable(), 1);
    }
}
