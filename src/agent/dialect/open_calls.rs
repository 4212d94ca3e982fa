//! OpenCalls: the function calls whose results a model waits for. What the caller has interrupted is waited for no more.

use std::collections::VecDeque;

use serde_json::Value;

/// Of more than these the oldest has no result.
const MAX_OPEN: usize = 64;

/// The ids of calls, in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct OpenCalls(VecDeque<Value>);

impl OpenCalls {
    pub fn begin(&mut self, id: Value) {
        if self.0.len() == MAX_OPEN {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    /// The model waits for none of these any more.
    pub fn cancel(&mut self, ids: &[Value]) {
        self.0.retain(|open| !ids.contains(open));
    }

    /// There is a result. Says whether the model waits for it.
    pub fn end(&mut self, id: &Value) -> bool {
        let open = self.0.iter().position(|open| open == id);
        open.and_then(|open| self.0.remove(open)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_one_result_and_none_once_it_is_cancelled() {
        let mut open = OpenCalls::default();
        for id in 0..=MAX_OPEN {
            open.begin(id.into());
        }
        open.cancel(&[3.into(), 1000.into()]);
        assert!(!open.end(&0.into()), "it is too old");
        assert!(open.end(&1.into()));
        assert!(!open.end(&1.into()));
        assert!(!open.end(&3.into()));
    }
}
