//! Reports for people: as text on a terminal, as a page with pictures, side by side.

pub mod compare;
pub mod html;
pub mod progress;
pub mod svg;
pub mod text;

#[cfg(test)]
mod tests;
