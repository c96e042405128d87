//! Memory that is free goes back to the system.

use std::hint::black_box;

/// More than the allocator keeps in a thread: it comes from what all threads share, and goes back there when dropped.
const LARGE: usize = 1024 * 1024;

/// Has the allocator give back to the system what has been free for a second or more.
///
/// mimalloc puts that off until some thread next gives up a page of blocks, so that a process that has become quiet
/// keeps what its busiest moment took. To take a large block and to drop it at once, untouched, is such an occasion.
/// There is a call for it (`mi_collect`), but no safe one. With another allocator this does nothing. It takes a few
/// microseconds where there is nothing to give back.
pub(crate) fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE)));
}
