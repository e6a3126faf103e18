//! A world that a seed decides: what the simulator puts in the place of the kernel's randomness and of threads, for the
//! thread it runs on. Compiled into tests only (feature `sim`).

use std::cell::RefCell;
use std::time::Duration;

use tokio::task::JoinHandle;

/// Fills a buffer with what the seed draws.
type Source = Box<dyn FnMut(&mut [u8])>;

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// Draws of 256 above which a call of a disk takes a while; the more, the longer.
const SLOW_FROM: u8 = 224;

/// From now on all randomness of this thread comes from `source`, and calls that block run on this thread.
pub fn begin(source: impl FnMut(&mut [u8]) + 'static) {
    SOURCE.set(Some(Box::new(source)));
}

/// Gives the thread back to the real world.
pub fn end() {
    SOURCE.set(None);
}

pub(super) fn is_on() -> bool {
    SOURCE.with_borrow(Option::is_some)
}

pub(super) fn draw(out: &mut [u8]) -> bool {
    SOURCE.with_borrow_mut(|source| match source {
        Some(source) => {
            source(out);
            true
        }
        None => false,
    })
}

/// Runs a call as a task of this thread, after the time a disk takes. It must not wait for anything.
pub(super) fn later<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let mut drawn = [0];
    draw(&mut drawn);
    let wait_ms = u64::from(drawn[0].saturating_sub(SLOW_FROM));
    tokio::spawn(async move {
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        call()
    })
}
