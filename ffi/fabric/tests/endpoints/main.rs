//! A writer here and a target in another process, over the providers that every machine has.

mod death;
mod processes;
mod refusals;
mod rig;
mod signals;
mod writes;
