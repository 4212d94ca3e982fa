//! Pagination, the same for every list.

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::error::ApiError;

/// The most entries on one page.
const MOST: usize = 200;
const USUAL: usize = 50;

/// The page to return.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The most entries on the page; 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Where the page begins: `next` of the previous page.
    after: Option<String>,
}

/// The parsed query.
pub(super) struct Page<Key> {
    limit: usize,
    /// The last entry of the previous page.
    pub(super) after: Option<Key>,
}

impl PageQuery {
    /// `parse` reads an entry's key; `what` names it in errors.
    pub(super) fn read<Key>(self, what: &str, parse: impl FnOnce(&str) -> Option<Key>) -> Result<Page<Key>, ApiError> {
        let limit = self.limit.unwrap_or(USUAL);
        if !(1..=MOST).contains(&limit) {
            return Err(invalid(format!("limit: give 1 to {MOST}")));
        }
        let Some(text) = self.after else { return Ok(Page { limit, after: None }) };
        let after = parse(&text).ok_or_else(|| invalid(format!("after: give {what}, as in `next`")))?;
        Ok(Page { limit, after: Some(after) })
    }
}

impl<Key> Page<Key> {
    /// One entry more than is shown: its presence means that there is a next page.
    pub(super) fn to_find(&self) -> usize {
        self.limit + 1
    }

    /// The entries to show, and `after` of the next page.
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
