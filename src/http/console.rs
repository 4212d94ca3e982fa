//! `/console`: the pages of agents and supervisors. They use the public API as any other page does.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;

use crate::pages::{self, File, Kind};

macro_rules! files {
    ($($name:literal $kind:ident,)*) => {
        [$(File::new(
            concat!("/console/", $name),
            Kind::$kind,
            include_str!(concat!("../browser/console/", $name)),
        ),)*]
    };
}

const PAGE: [File; 1] = [File::new("/console", Kind::Html, include_str!("../browser/console/index.html"))];

const FILES: [File; 38] = files! {
    "console.css" Css,
    "icon.svg" Svg,
    "agent_view.js" Script,
    "api.js" Script,
    "app.js" Script,
    "awake.js" Script,
    "call.js" Script,
    "call_row.js" Script,
    "call_view.js" Script,
    "desk.js" Script,
    "element.js" Script,
    "events.js" Script,
    "floor.js" Script,
    "history_view.js" Script,
    "icons.js" Script,
    "keypad_view.js" Script,
    "language.js" Script,
    "leg.js" Script,
    "meter.js" Script,
    "microphone.js" Script,
    "monitor.js" Script,
    "monitor_view.js" Script,
    "quality.js" Script,
    "quality_view.js" Script,
    "recording_view.js" Script,
    "ring.js" Script,
    "sdp.js" Script,
    "shortcuts.js" Script,
    "sign_in_view.js" Script,
    "sound.js" Script,
    "sparkline.js" Script,
    "supervisor_view.js" Script,
    "tabs.js" Script,
    "toast.js" Script,
    "transfer_view.js" Script,
    "trouble.js" Script,
    "waveform.js" Script,
    "words.js" Script,
};

/// `/console` is the page, `/console/NAME` each of its files.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let slash = get(|| async { Redirect::permanent("/console") });
    Router::new().route("/console/", slash).merge(pages::routes(&PAGE)).merge(pages::routes(&FILES))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/browser/console");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let in_folder: BTreeSet<String> =
            names.filter(|name| !["README.md", "index.html"].contains(&&**name)).collect();
        let served = FILES.iter().map(|file| file.path.trim_start_matches("/console/").to_owned());
        assert_eq!(in_folder, served.collect());
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        let [page] = &PAGE;
        assert!(!page.text.contains("<style") && !page.text.contains(" style=") && !page.text.contains(" on"));
        let mut scripts = page.text.split("<script").skip(1);
        assert!(scripts.all(|script| script.trim_start().starts_with("type=\"module\" src=\"/console/")));
    }
}
