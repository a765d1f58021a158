//! What several subjects of the suite need.

pub mod source_tree;
