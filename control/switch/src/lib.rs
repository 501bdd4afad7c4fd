//! The control side of a switch box: configuration, steering of managed addresses, gRPC.
//!
//! One command's path: [`service`] turns a request into valid types and sends it to the [`core`] thread; the core
//! changes a copy of [`steering`], publishes its snapshot through the [`dataplane`] edge, waits until every worker
//! acknowledged, keeps the copy, and answers.
#![forbid(unsafe_code)]

pub mod config;
pub mod core;
pub mod dataplane;
pub mod kernel;
pub mod server;
pub mod service;
pub mod steering;
