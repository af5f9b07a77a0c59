//! At most so many requests at once, the urgent ones first: a Worker may have six connections open, and a revert must
//! not wait behind telemetry.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use futures_channel::oneshot;

/// A counter of free places with two waiting lines.
#[derive(Debug)]
pub struct InFlight {
    free: Cell<usize>,
    urgent: RefCell<VecDeque<oneshot::Sender<()>>>,
    patient: RefCell<VecDeque<oneshot::Sender<()>>>,
}

/// A place; dropping it hands it on.
#[derive(Debug)]
pub struct Place<'a>(&'a InFlight);

impl InFlight {
    /// So many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            free: Cell::new(places),
            urgent: RefCell::default(),
            patient: RefCell::default(),
        }
    }

    /// Waits for a place.
    pub async fn enter(&self, urgent: bool) -> Place<'_> {
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            return Place(self);
        }
        let (sender, receiver) = oneshot::channel();
        let line = if urgent { &self.urgent } else { &self.patient };
        line.borrow_mut().push_back(sender);
        let mut waiting = Waiting {
            receiver,
            in_flight: self,
            entered: false,
        };
        // The sender is dropped only with the whole counter, so an error can't be waited out any better.
        (&mut waiting.receiver).await.ok();
        waiting.entered = true;
        Place(self)
    }
}

/// Somebody in a line, who may give up: a place that was handed over in the same moment goes on to the next.
struct Waiting<'a> {
    receiver: oneshot::Receiver<()>,
    in_flight: &'a InFlight,
    entered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if !self.entered && matches!(self.receiver.try_recv(), Ok(Some(()))) {
            drop(Place(self.in_flight));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let next = || {
            let urgent = self.0.urgent.borrow_mut().pop_front();
            urgent.or_else(|| self.0.patient.borrow_mut().pop_front())
        };
        while let Some(waiting) = next() {
            if waiting.send(()).is_ok() {
                return;
            }
        }
        self.0.free.set(self.0.free.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_urgent_go_first_and_places_are_handed_on() {
        let in_flight = InFlight::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(in_flight.enter(false)).poll(&mut context) else {
            panic!("a free place is given at once")
        };
        let mut patient = pin!(in_flight.enter(false));
        let mut urgent = pin!(in_flight.enter(true));
        assert!(patient.as_mut().poll(&mut context).is_pending());
        assert!(urgent.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(patient.as_mut().poll(&mut context).is_pending());
        let Poll::Ready(second) = urgent.as_mut().poll(&mut context) else {
            panic!("the urgent one is next")
        };
        drop(second);
        assert!(patient.as_mut().poll(&mut context).is_ready());
        assert_eq!(in_flight.free.get(), 1);
    }

    #[test]
    fn a_place_handed_to_somebody_who_gives_up_is_not_lost() {
        let in_flight = InFlight::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(first) = pin!(in_flight.enter(false)).poll(&mut context) else {
            panic!("a free place is given at once")
        };
        let mut second = Box::pin(in_flight.enter(false));
        let mut third = Box::pin(in_flight.enter(false));
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(first);
        // The second has been granted its place, but is dropped before it is polled again.
        drop(second);
        assert!(third.as_mut().poll(&mut context).is_ready());
        drop(third);
        assert_eq!(in_flight.free.get(), 1);
    }
}
