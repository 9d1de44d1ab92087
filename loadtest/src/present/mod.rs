//! Reports for people: as text on a terminal, as a page with pictures, side by side.

pub mod chart;
pub mod compare;
pub mod conclusion;
mod curves;
pub mod page;
pub mod progress;
pub mod text;

#[cfg(test)]
mod tests;
