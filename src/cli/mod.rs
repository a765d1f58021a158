//! To come.
pub mod exit;
