//! The files of the phone page.

use crate::pages::{File, Kind};

/// All of them; the page itself is the first.
pub(super) const FILES: [File; 11] = [
    File::new("/", Kind::Html, include_str!("phone/index.html")),
    File::new("/phone.css", Kind::Css, include_str!("phone/phone.css")),
    File::new("/icon.svg", Kind::Svg, include_str!("phone/icon.svg")),
    File::new("/phone.js", Kind::Script, include_str!("phone/phone.js")),
    File::new("/api.js", Kind::Script, include_str!("phone/api.js")),
    File::new("/call.js", Kind::Script, include_str!("phone/call.js")),
    File::new("/faults.js", Kind::Script, include_str!("phone/faults.js")),
    File::new("/json.js", Kind::Script, include_str!("phone/json.js")),
    File::new("/levels.js", Kind::Script, include_str!("phone/levels.js")),
    File::new("/sound.js", Kind::Script, include_str!("phone/sound.js")),
    File::new("/timeline.js", Kind::Script, include_str!("phone/timeline.js")),
];
