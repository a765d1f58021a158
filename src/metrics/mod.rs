//! What a scheduled run tells those who watch it.
//!
//! What is here: the names of all figures (`names`), a set of them as the text that Prometheus reads (`figures`), the file for the
//! node exporter (`file`), a Pushgateway (`push`), signs of life (`ping`), and the one way to post something (`post`). What comes
//! in: figures and addresses. What goes out: a file, requests, or why that could not be. What never happens here: a figure made
//! up, an address in a message (it may be a secret), anything that fails a run.

pub mod figures;
pub mod file;
pub mod names;
pub mod ping;
pub mod post;
pub mod push;
