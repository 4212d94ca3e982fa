//! One page of a list, the same for every list: how much of it, where it begins, and where the next one does.

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::error::ApiError;

/// Entries on one page at most.
const MOST: usize = 200;
const USUAL: usize = 50;

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Where the page begins: `next` of the page before.
    after: Option<String>,
}

/// The part that was asked for, read.
pub(super) struct Page<Key> {
    limit: usize,
    /// The last entry of the page before.
    pub(super) after: Option<Key>,
}

impl PageQuery {
    /// `parse` reads an entry's key, and `what` names it.
    pub(super) fn read<Key>(self, what: &str, parse: impl FnOnce(&str) -> Option<Key>) -> Result<Page<Key>, ApiError> {
        let limit = self.limit.unwrap_or(USUAL);
        if !(1..=MOST).contains(&limit) {
            return Err(invalid(format!("limit: give 1 to {MOST}")));
        }
        let Some(text) = self.after else { return Ok(Page { limit, after: None }) };
        let after = parse(&text).ok_or_else(|| invalid(format!("after: give {what}, as `next` says it")))?;
        Ok(Page { limit, after: Some(after) })
    }
}

impl<Key> Page<Key> {
    /// One more than is shown: it says whether there is a next page.
    pub(super) fn to_find(&self) -> usize {
        self.limit + 1
    }

    /// What is shown of what was found, and what `after` must be for the next page.
    pub(super) fn cut<Entry>(
        &self,
        mut found: Vec<Entry>,
        key: impl FnOnce(&Entry) -> String,
    ) -> (Vec<Entry>, Option<String>) {
        let has_more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().filter(|_| has_more).map(key);
        (found, next)
    }
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_page", detail)
}
