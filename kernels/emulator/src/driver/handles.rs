//! Handles that C callers hold: numbers, so that a stale or foreign one is an error and no crash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::status::{Error, INVALID_HANDLE};

/// Locks; a thread that panicked while it held the lock has said so already.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Things of one kind.
#[derive(Debug)]
pub(super) struct Handles<T> {
    what: &'static str,
    held: Mutex<(usize, HashMap<usize, Arc<T>>)>,
}

impl<T> Handles<T> {
    /// `what` names the kind; `first` is the first number given, so that kinds do not overlap.
    pub fn new(what: &'static str, first: usize) -> Self {
        Self {
            what,
            held: Mutex::new((first, HashMap::new())),
        }
    }

    pub fn add(&self, thing: Arc<T>) -> usize {
        let mut held = lock(&self.held);
        let handle = held.0;
        held.0 += 16;
        held.1.insert(handle, thing);
        handle
    }

    pub fn get(&self, handle: usize) -> Result<Arc<T>, Error> {
        lock(&self.held)
            .1
            .get(&handle)
            .cloned()
            .ok_or_else(|| self.unknown(handle))
    }

    pub fn remove(&self, handle: usize) -> Result<Arc<T>, Error> {
        lock(&self.held)
            .1
            .remove(&handle)
            .ok_or_else(|| self.unknown(handle))
    }

    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        lock(&self.held).1.retain(|_, thing| keep(thing));
    }

    pub fn any(&self, holds: impl Fn(&T) -> bool) -> bool {
        lock(&self.held).1.values().any(|thing| holds(thing))
    }

    pub fn len(&self) -> usize {
        lock(&self.held).1.len()
    }

    fn unknown(&self, handle: usize) -> Error {
        Error::new(
            INVALID_HANDLE,
            format!("{handle:#x} is no {}, or one that was destroyed", self.what),
        )
    }
}
