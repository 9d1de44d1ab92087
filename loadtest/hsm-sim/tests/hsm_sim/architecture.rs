//! The files of this crate form a way in one direction: none is reached from what it uses.

use crate::modules;

#[test]
fn no_file_is_reached_from_what_it_uses() {
    modules::assert_no_circles(env!("CARGO_MANIFEST_DIR"));
}
