//! An allocator that counts what chosen threads allocate, and can tell whose code it was.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts for the threads that asked for it.
pub struct Counter {
    allocations: AtomicU64,
    /// Whether to note where.
    tracing: AtomicBool,
    places: Mutex<BTreeMap<Place, u64>>,
}

thread_local! {
    /// Who counts what this thread allocates. Without a destructor, so that the allocator may look
    /// at it at any time.
    static COUNTER: Cell<Option<&'static Counter>> = const { Cell::new(None) };
}

/// Whose code allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Xksd,
    /// rustls and futures-rustls.
    Tls,
    /// glommio.
    Executor,
}

impl Counter {
    /// Of nothing yet. It is never freed: an allocation may be under way anywhere.
    pub fn new() -> &'static Counter {
        Box::leak(Box::new(Counter {
            allocations: AtomicU64::new(0),
            tracing: AtomicBool::new(false),
            places: Mutex::default(),
        }))
    }

    /// From now on counts what the calling thread allocates.
    pub fn enlist(&'static self) {
        COUNTER.set(Some(self));
    }

    /// Counts what the calling thread allocates in `work`.
    pub fn count<T>(&'static self, work: impl FnOnce() -> T) -> T {
        self.enlist();
        let done = work();
        COUNTER.set(None);
        done
    }

    /// Whether allocations are noted with their places, which is slow.
    pub fn set_tracing(&self, tracing: bool) {
        self.tracing.store(tracing, Ordering::SeqCst);
    }

    /// Allocations so far; growing and shrinking count as one.
    pub fn total(&self) -> u64 {
        self.allocations.load(Ordering::SeqCst)
    }

    /// The traced ones of an owner.
    pub fn traced(&self, owner: Owner) -> u64 {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().filter(|(place, _)| place.owner == owner).map(|(_, count)| count).sum()
    }

    /// Where the traced ones were made, and how often.
    pub fn places(&self) -> String {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().map(|(place, count)| format!("{count} x {place}")).collect()
    }

    fn note(&'static self, layout: Layout) {
        self.allocations.fetch_add(1, Ordering::SeqCst);
        if self.tracing.load(Ordering::SeqCst) {
            // What the noting itself allocates is nobody's.
            COUNTER.set(None);
            let place = Place::of(layout.size(), &Backtrace::force_capture());
            *self
                .places
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(place)
                .or_default() += 1;
            COUNTER.set(Some(self));
        }
    }
}

/// Where something is allocated.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    owner: Owner,
    bytes: usize,
    /// Innermost first, from the owner's.
    functions: Vec<String>,
}

impl Place {
    /// Owned by the innermost function of a crate that can own: std, smallvec and their like work
    /// for others.
    fn of(bytes: usize, backtrace: &Backtrace) -> Place {
        let text = backtrace.to_string();
        let mut lines = text.lines().map(str::trim).peekable();
        let (mut owner, mut functions) = (None, Vec::new());
        while let Some(line) = lines.next() {
            let Some((_, function)) = line.split_once(": ") else { continue };
            let file = lines.next_if(|next| next.starts_with("at ")).unwrap_or_default();
            // Dependencies are built without files; what of them was inlined into xksd has a file,
            // and lost its crate's name.
            let is_of = |name: &str, path: &str| {
                function.trim_start_matches('<').starts_with(name) || file.contains(path)
            };
            owner = owner.or(match () {
                () if is_of("glommio_ng::", "/glommio-ng-") => Some(Owner::Executor),
                () if is_of("rustls::", "/rustls-")
                    || is_of("futures_rustls::", "/futures-rustls-") =>
                {
                    Some(Owner::Tls)
                }
                () if is_of("xksd::", "at ./src/") => Some(Owner::Xksd),
                () => None,
            });
            if owner.is_some() {
                functions.push(function.to_owned());
            }
        }
        Place { owner: owner.unwrap_or(Owner::Xksd), bytes, functions }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, {} bytes", self.owner, self.bytes)?;
        self.functions.iter().take(6).try_for_each(|function| writeln!(f, "        {function}"))
    }
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(layout: Layout) {
    if let Ok(Some(counter)) = COUNTER.try_with(Cell::get) {
        counter.note(layout);
    }
}

// SAFETY: everything is handed to the system's allocator as it came. What is done beside it does
// not unwind, and allocates only while the thread is not counted, so that it does not come here
// again.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(layout);
        // SAFETY: the caller keeps `realloc`'s contract, which is the same; `at` came from the same
        // allocator.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, which is the same; `at` came from the same
        // allocator.
        unsafe { System.dealloc(at, layout) }
    }
}
