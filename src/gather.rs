//! Small stand-ins for generic parts of libraries that would be in the Worker once for each type that they are used with.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::sorted::{SortedMap, SortedSet};
use futures_util::future::{self, LocalBoxFuture};

/// Makes maps and sets by inserting. `collect` sorts first, with a sort for each type.
pub(crate) trait Gather: Iterator + Sized {
    /// A map; of several values of a key the last stays.
    fn into_map<K: Ord, V>(self) -> SortedMap<K, V>
    where
        Self: Iterator<Item = (K, V)>,
    {
        self.collect()
    }

    /// A set for what is kept.
    fn into_tree(self) -> BTreeSet<Self::Item>
    where
        Self::Item: Ord,
    {
        let mut set = BTreeSet::new();
        set.extend(self);
        set
    }

    /// A set.
    fn into_set(self) -> SortedSet<Self::Item>
    where
        Self::Item: Ord,
    {
        self.collect()
    }
}

impl<I: Iterator> Gather for I {}

/// A map with one entry.
pub(crate) fn map_of<K: Ord, V>(key: K, value: V) -> SortedMap<K, V> {
    std::iter::once((key, value)).into_map()
}

/// Sorts a short list by a key; what has the same key stays in order.
pub(crate) fn sort_short<T, K: Ord>(items: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut sorted: Vec<T> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        let at = sorted.partition_point(|other| key(other) <= key(&item));
        sorted.insert(at, item);
    }
    *items = sorted;
}

/// Waits for all of them at once, and answers in their order.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let (mut places, mut all) = (Vec::new(), Vec::<LocalBoxFuture<'_, ()>>::new());
    for future in futures {
        let place = Rc::new(Cell::new(None));
        places.push(Rc::clone(&place));
        all.push(Box::pin(async move { place.set(Some(future.await)) }));
    }
    future::join_all(all).await;
    taken(places)
}

/// The same of what may fail; after the first failure nobody waits for the others.
pub(crate) async fn try_join_all<T, E, F: Future<Output = Result<T, E>>>(
    futures: impl IntoIterator<Item = F>,
) -> Result<Vec<T>, E> {
    let (mut places, mut all) = (Vec::new(), Vec::<LocalBoxFuture<'_, Result<(), E>>>::new());
    for future in futures {
        let place = Rc::new(Cell::new(None));
        places.push(Rc::clone(&place));
        all.push(Box::pin(async move {
            place.set(Some(future.await?));
            Ok(())
        }));
    }
    future::try_join_all(all).await?;
    Ok(taken(places))
}

fn taken<T>(places: Vec<Rc<Cell<Option<T>>>>) -> Vec<T> {
    // Each was filled before its future ended, and all have.
    places
        .into_iter()
        .filter_map(|place| place.take())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use futures_executor::block_on;
    use futures_util::future::{pending, ready};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_are_waited_for_at_once_and_answered_in_order() {
        let (sender, receiver) = futures_channel::oneshot::channel();
        let told = RefCell::new(Some(sender));
        // The first ends only after the second has begun.
        let first: LocalBoxFuture<'_, i32> = Box::pin(async { receiver.await.unwrap() });
        let second: LocalBoxFuture<'_, i32> = Box::pin(async {
            told.take().unwrap().send(1).unwrap();
            2
        });
        assert_eq!(block_on(join_all([first, second])), [1, 2]);
        assert_eq!(block_on(join_all(Vec::<future::Ready<()>>::new())), []);
    }

    #[test]
    fn the_first_failure_ends_the_wait() {
        let wait: LocalBoxFuture<'_, Result<i32, &str>> = Box::pin(pending());
        assert_eq!(
            block_on(try_join_all([wait, Box::pin(ready(Err("no")))])),
            Err("no")
        );
        assert_eq!(
            block_on(try_join_all((1..4).map(|n| ready(Ok::<_, ()>(n))))),
            Ok(vec![1, 2, 3])
        );
    }

    proptest! {
        #[test]
        fn they_are_what_they_stand_in_for(pairs in prop::collection::vec((0..8_u8, any::<u16>()), 0..20)) {
            let map: BTreeMap<u8, u16> = pairs.iter().copied().collect();
            prop_assert!(pairs.iter().copied().into_map().into_iter().eq(map));
            let set: BTreeSet<(u8, u16)> = pairs.iter().copied().collect();
            prop_assert!(pairs.iter().copied().into_set().into_iter().eq(set.clone()));
            prop_assert_eq!(pairs.iter().copied().into_tree(), set);
            let (mut sorted, mut ours) = (pairs.clone(), pairs);
            sorted.sort_by_key(|pair| std::cmp::Reverse(pair.0));
            sort_short(&mut ours, |pair| std::cmp::Reverse(pair.0));
            prop_assert_eq!(ours, sorted);
        }
    }
}
