//! The queues of a key manager: one for each shard, and in it one FIFO for each key store. Key
//! stores get their shares by start-time fair queueing (Goyal, Vin, Cheng 1996), over all shards
//! together.
//!
//! Each key store has a start tag, which grows by [`TAG_STEP`] / weight a job that a lane takes.
//! The one with the smallest is served next. One that had nothing queued resumes at the tag last
//! served: it is served soon, and saves nothing up. With a single key store queued this is the
//! plain FIFO of a shard.
//!
//! A job costs O(log key stores) and no allocation: a key store stands in the heap once, by a tag
//! that may be too small by now, and is moved when it comes to the top.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

/// By how much the tag of a key store of weight 1 grows a job. At 10⁵ jobs/s a `u64` lasts 90
/// years; up to a weight of 100 the rounding is below 0.2 %.
const TAG_STEP: u64 = 1 << 16;

/// Whose job it is, and what part of the key manager that one gets while others wait too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    flow: u32,
    weight: u32,
}

impl Share {
    /// Of this process's own jobs: probes, comparisons of replicas.
    pub const OWN: Share = Share { flow: 0, weight: 1 };

    /// Of the key store of this index in the configuration. After a reload jobs queued before, for
    /// up to a request's budget, may count as those of another key store.
    pub fn of_key_store(index: usize, weight: u32) -> Share {
        Share { flow: index as u32 + 1, weight: weight.clamp(1, TAG_STEP as u32) }
    }

    /// What others' parts are reckoned with. This process's own jobs are too few to count.
    fn counted(self) -> u64 {
        if self.flow == Share::OWN.flow { 0 } else { u64::from(self.weight) }
    }
}

/// A queued job.
#[derive(Clone, Debug)]
pub struct Entry<J> {
    /// What the submitter gave.
    pub job: J,
    /// Whose queue it was in.
    pub shard: usize,
    /// On whose account.
    pub share: Share,
    /// By when it must be done.
    pub deadline: Instant,
    /// When it came.
    pub submitted: Instant,
}

/// A key store, over all shards.
#[derive(Clone, Copy)]
struct Flow {
    tag: u64,
    share: Share,
    queued: usize,
    /// Shards in whose queue it has jobs.
    shards: usize,
    in_heap: bool,
}

/// A key store's jobs in one shard's queue.
#[derive(Clone)]
struct Fifo<J> {
    jobs: VecDeque<Entry<J>>,
    /// Where `filled` names it, while there are jobs.
    place: usize,
}

#[derive(Clone)]
struct ShardQueue<J> {
    /// By flow.
    fifos: Vec<Fifo<J>>,
    /// The flows with jobs, in no order.
    filled: Vec<u32>,
    len: usize,
}

/// All queues of a key manager.
#[derive(Clone)]
pub(super) struct Queues<J> {
    shards: Vec<ShardQueue<J>>,
    flows: Vec<Flow>,
    /// Flows with jobs, by tag.
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// The tag last served.
    virtual_time: u64,
    len: usize,
    /// Weights of the flows with jobs.
    weight: u64,
}

impl<J> Queues<J> {
    pub(super) fn new(shards: usize) -> Queues<J> {
        let mut queues = Queues {
            shards: Vec::new(),
            flows: Vec::new(),
            heap: BinaryHeap::new(),
            virtual_time: 0,
            len: 0,
            weight: 0,
        };
        (0..shards).for_each(|_| queues.add_shard());
        queues
    }

    pub(super) fn add_shard(&mut self) {
        self.shards.push(ShardQueue { fifos: Vec::new(), filled: Vec::new(), len: 0 });
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// A shard whose queue is not empty.
    pub(super) fn any_shard(&self) -> Option<usize> {
        self.shards.iter().position(|queue| queue.len > 0)
    }

    /// Jobs queued.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Jobs queued, by shard.
    pub(super) fn lens(&self) -> impl Iterator<Item = usize> + '_ {
        self.shards.iter().map(|queue| queue.len)
    }

    /// Jobs that `share` has queued in the shard's queue.
    pub(super) fn len_of(&self, shard: usize, share: Share) -> usize {
        self.fifo(shard, share.flow).map_or(0, VecDeque::len)
    }

    fn fifo(&self, shard: usize, flow: u32) -> Option<&VecDeque<Entry<J>>> {
        self.shards[shard].fifos.get(flow as usize).map(|fifo| &fifo.jobs)
    }

    /// How many jobs are served before a new one of `share` in this shard's queue, at most: by all
    /// lanes, and by the shard's home lanes if these serve nothing else.
    pub(super) fn ahead(&self, shard: usize, share: Share) -> (f64, f64) {
        let own = self.len_of(shard, share);
        let (queued, shards) =
            self.flows.get(share.flow as usize).map_or((0, 0), |flow| (flow.queued, flow.shards));
        // Of the others' jobs their share while its own are served, and no more than there are.
        let others = self.others(share) as f64 / f64::from(share.weight);
        let with_others =
            |jobs: usize| jobs as f64 + (jobs as f64 * others).min((self.len - queued) as f64);
        // A flow's shards are served in turn.
        (with_others(queued.min(own * shards)), with_others(own))
    }

    /// The bound of `share` in one queue of `queue_max` jobs: its part of it among those who wait,
    /// so that a flood leaves room. n key stores stay below `queue_max` · (1 + ln n) together.
    pub(super) fn room(&self, share: Share, queue_max: usize) -> usize {
        let weight = u64::from(share.weight);
        (queue_max as u64 * weight).div_ceil(self.others(share) + weight) as usize
    }

    /// Weights of the others who wait.
    fn others(&self, share: Share) -> u64 {
        let own = self.flows.get(share.flow as usize).filter(|flow| flow.queued > 0);
        self.weight - own.map_or(0, |flow| flow.share.counted())
    }

    pub(super) fn push_back(&mut self, entry: Entry<J>) {
        self.enter(&entry).push_back(entry);
    }

    /// Back to the head; what it was charged when it was taken stays charged.
    pub(super) fn push_front(&mut self, entry: Entry<J>) {
        self.enter(&entry).push_front(entry);
    }

    fn enter(&mut self, entry: &Entry<J>) -> &mut VecDeque<Entry<J>> {
        let share = entry.share;
        let at = share.flow as usize;
        if self.flows.len() <= at {
            let unseen = Flow { tag: 0, share, queued: 0, shards: 0, in_heap: false };
            self.flows.resize(at + 1, unseen);
        }
        let flow = &mut self.flows[at];
        if flow.queued == 0 {
            flow.tag = flow.tag.max(self.virtual_time);
            if !std::mem::replace(&mut flow.in_heap, true) {
                self.heap.push(Reverse((flow.tag, share.flow)));
            }
        } else {
            self.weight -= flow.share.counted();
        }
        flow.share = share;
        self.weight += share.counted();
        flow.queued += 1;
        self.len += 1;
        let queue = &mut self.shards[entry.shard];
        if queue.fifos.len() <= at {
            queue.fifos.resize_with(at + 1, || Fifo { jobs: VecDeque::new(), place: 0 });
        }
        queue.len += 1;
        let fifo = &mut queue.fifos[at];
        if fifo.jobs.is_empty() {
            flow.shards += 1;
            fifo.place = queue.filled.len();
            queue.filled.push(share.flow);
        }
        &mut fifo.jobs
    }

    /// The flow to be served next.
    pub(super) fn next_flow(&mut self) -> Option<u32> {
        while let Some(mut top) = self.heap.peek_mut() {
            let Reverse((tag, index)) = *top;
            let flow = &mut self.flows[index as usize];
            if flow.queued == 0 {
                flow.in_heap = false;
                PeekMut::pop(top);
            } else if tag < flow.tag {
                *top = Reverse((flow.tag, index));
            } else {
                return Some(index);
            }
        }
        None
    }

    /// Whether the shard's queue has jobs of this flow.
    pub(super) fn holds(&self, shard: usize, flow: u32) -> bool {
        self.fifo(shard, flow).is_some_and(|jobs| !jobs.is_empty())
    }

    /// Whether all jobs of this flow wait in this shard's queue.
    pub(super) fn holds_all(&self, shard: usize, flow: u32) -> bool {
        self.fifo(shard, flow).map_or(0, VecDeque::len) == self.flows[flow as usize].queued
    }

    /// The flows that the shard's queue has jobs of. A pop may put the last one in the place of
    /// the one that it empties.
    pub(super) fn flows_in(&self, shard: usize) -> &[u32] {
        &self.shards[shard].filled
    }

    /// The oldest job of a flow in a shard's queue.
    pub(super) fn head(&self, shard: usize, flow: u32) -> Option<&Entry<J>> {
        self.fifo(shard, flow)?.front()
    }

    /// Takes it out.
    pub(super) fn pop(&mut self, shard: usize, flow: u32) -> Option<Entry<J>> {
        let queue = &mut self.shards[shard];
        let fifo = queue.fifos.get_mut(flow as usize)?;
        let entry = fifo.jobs.pop_front()?;
        let emptied = fifo.jobs.is_empty().then_some(fifo.place);
        queue.len -= 1;
        self.len -= 1;
        let of = &mut self.flows[flow as usize];
        of.queued -= 1;
        if of.queued == 0 {
            self.weight -= of.share.counted();
        }
        if let Some(place) = emptied {
            of.shards -= 1;
            queue.filled.swap_remove(place);
            if let Some(&moved) = queue.filled.get(place) {
                queue.fifos[moved as usize].place = place;
            }
        }
        Some(entry)
    }

    /// This flow is served now: who comes with nothing queued resumes here.
    pub(super) fn begin(&mut self, flow: u32) {
        self.virtual_time = self.virtual_time.max(self.flows[flow as usize].tag);
    }

    /// A lane has taken a job.
    pub(super) fn charge(&mut self, share: Share) {
        self.flows[share.flow as usize].tag += TAG_STEP / u64::from(share.weight);
    }

    /// The heads of all FIFOs.
    #[cfg(test)]
    pub(super) fn heads(&self) -> impl Iterator<Item = &Entry<J>> {
        self.shards.iter().flat_map(|queue| queue.fifos.iter().filter_map(|fifo| fifo.jobs.front()))
    }
}
