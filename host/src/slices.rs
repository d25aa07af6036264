//! Work on thousands of items in slices, because the reactor of the app thread also does I/O.

use drivebay_core::reactor::thread;
use std::vec::IntoIter;

/// Items for each message. In a round the app thread takes up to 64 messages, including messages
/// that were sent in the same round. So it handles at most 64 items in a round.
pub(crate) const PER_MESSAGE: usize = 1;

/// Adds each item to `result`, with `at_once` items in one message to the app thread. Then passes
/// the result to `then`. App thread.
pub(crate) fn fold<T: Send + 'static, R: Send + 'static>(
    items: Vec<T>,
    at_once: usize,
    result: R,
    add: impl FnMut(&mut R, T) + Send + 'static,
    then: impl FnOnce(R) + Send + 'static,
) {
    go_on(items.into_iter(), at_once, result, add, then);
}

fn go_on<T: Send + 'static, R: Send + 'static>(
    mut items: IntoIter<T>,
    at_once: usize,
    mut result: R,
    mut add: impl FnMut(&mut R, T) + Send + 'static,
    then: impl FnOnce(R) + Send + 'static,
) {
    items.by_ref().take(at_once).for_each(|item| add(&mut result, item));
    if items.len() == 0 {
        return then(result);
    }
    thread::send_app(move || go_on(items, at_once, result, add, then));
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_core::reactor::stepped::Stepped;
    use std::sync::mpsc;

    /// Each round also runs every poller, so I/O continues. A process has one set of reactors: no
    /// other test here starts them.
    #[test]
    fn a_round_works_on_a_few_items_whatever_their_number() {
        let mut reactor = Stepped::start().unwrap();
        let (added, seen) = mpsc::channel();
        let ended = added.clone();
        thread::send_app(|| {
            let add = move |sum: &mut u32, item| {
                *sum += 1;
                added.send(Some(item)).unwrap();
            };
            let end = move |sum| {
                assert_eq!(sum, 8000);
                ended.send(None).unwrap();
            };
            fold((0..8000).collect(), PER_MESSAGE, 0, add, end);
        });
        let mut items = Vec::new();
        for round in 1.. {
            for thread in reactor.threads().collect::<Vec<_>>() {
                reactor.round(thread, 64);
            }
            let came: Vec<_> = seen.try_iter().collect();
            assert!(came.iter().flatten().count() <= 64, "round {round}: {}", came.len());
            items.extend(came);
            if items.last() == Some(&None) {
                break;
            }
            assert!(round < 1000, "the fold must end");
        }
        let expected: Vec<_> = (0..8000).map(Some).chain([None]).collect();
        assert_eq!(items, expected);
    }
}
