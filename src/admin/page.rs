//! `/`: the page that shows `/status` and `/history` to a person.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

use crate::control::connections::Response;

const PAGE: &str = include_str!("page.html");

/// The browser runs this script and this style, talks to this listener, and nothing else: also if
/// something from elsewhere got into the page.
static FIELDS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "Content-Security-Policy: default-src 'none'; script-src '{}'; style-src '{}'; img-src \
         data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors \
         'none'\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: \
         no-referrer\r\nCache-Control: no-store\r\n",
        hash_of("script"),
        hash_of("style"),
    )
});

/// Of what stands in the page's only element of this name.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inner = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let inner = inner.map_or("", |(inner, _)| inner);
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, inner.as_bytes())))
}

/// The page.
pub(super) fn response() -> Response {
    Response {
        status: 200,
        content_type: "text/html; charset=utf-8",
        fields: &FIELDS,
        body: PAGE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_needs_nothing_from_elsewhere_and_makes_no_markup_of_data() {
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
        // SVG's name is the only address, and nothing is loaded from it.
        assert_eq!(PAGE.matches("://").count(), 1);
        assert!(PAGE.contains("\"http://www.w3.org/2000/svg\""));
        let makes_markup = ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("];
        for forbidden in makes_markup.iter().chain(&["src=", "@import", "url(", " style=\""]) {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(PAGE.lines().all(|line| line.chars().count() <= 100));
    }
}
