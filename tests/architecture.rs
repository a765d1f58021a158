//! House rules. To come.
