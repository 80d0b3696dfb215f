//! The extents of an image as a JSON array, written while they are still being asked for.
//!
//! Gapless from 0 to the size, alike neighbours joined, whatever the disk: at most the answer to one
//! question is in memory. `imageio.md` 3.5.

use std::fmt::Write;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;

use super::backend::{Backend, Error};
use crate::nbd::Extent;

/// What an answer tells of each extent besides whether it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    Zero,
    Dirty,
    /// All is dirty, whatever bitmap there is.
    AllDirty,
}

/// The body of the answer. `give_back` gets the backend when all is read.
pub fn listing(
    backend: Backend,
    size: u64,
    context: Context,
    give_back: impl FnOnce(Backend) + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let state = State {
        backend: Some(backend),
        at: 0,
        size,
        context,
        last: None,
        begun: false,
        give_back: Some(give_back),
    };
    try_unfold(state, State::next)
}

struct State<F> {
    backend: Option<Backend>,
    at: u64,
    size: u64,
    context: Context,
    /// The last extent so far: the next one may continue it.
    last: Option<Extent>,
    begun: bool,
    give_back: Option<F>,
}

impl<F: FnOnce(Backend)> State<F> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let Some(mut backend) = self.backend.take() else { return Ok(None) };
        let mut text = String::new();
        if self.at == 0 {
            text.push('[');
        }
        if self.at < self.size {
            let found = backend.extents(self.at).await?;
            for extent in found {
                self.push(extent, &mut text);
            }
        }
        if self.at < self.size {
            self.backend = Some(backend);
            return Ok(Some((text.into(), self)));
        }
        if let Some(last) = self.last.take() {
            self.write(last, &mut text);
        } else if !self.begun {
            // an empty image is one extent of no length
            let dirty = self.context == Context::AllDirty;
            let nothing = Extent { start: 0, length: 0, zero: true, hole: true, dirty };
            self.write(nothing, &mut text);
        }
        text.push_str("]\n");
        if let Some(give_back) = self.give_back.take() {
            give_back(backend);
        }
        Ok(Some((text.into(), self)))
    }

    fn push(&mut self, extent: Extent, text: &mut String) {
        let length = extent.length.min(self.size.saturating_sub(extent.start));
        if length == 0 {
            return;
        }
        self.at = extent.start + length;
        let dirty = extent.dirty || self.context == Context::AllDirty;
        let extent = Extent { length, dirty, ..extent };
        let alike = |a: &Extent, b: &Extent| match self.context {
            Context::Dirty | Context::AllDirty => (a.dirty, a.zero) == (b.dirty, b.zero),
            Context::Zero => (a.zero, a.hole) == (b.zero, b.hole),
        };
        match &mut self.last {
            Some(last) if alike(last, &extent) => last.length += length,
            _ => {
                if let Some(last) = self.last.replace(extent) {
                    self.write(last, text);
                }
            }
        }
    }

    fn write(&mut self, extent: Extent, text: &mut String) {
        if std::mem::replace(&mut self.begun, true) {
            text.push_str(", ");
        }
        let Extent { start, length, zero, hole, dirty } = extent;
        // writing to a String cannot fail
        let _ = match self.context {
            Context::Dirty | Context::AllDirty => {
                write!(text, r#"{{"start": {start}, "length": {length}, "dirty": {dirty}, "zero": {zero}}}"#)
            }
            Context::Zero => {
                write!(text, r#"{{"start": {start}, "length": {length}, "zero": {zero}, "hole": {hole}}}"#)
            }
        };
    }
}
