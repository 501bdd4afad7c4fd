//! Endpoints of the providers that every machine has, against each other: in one thread where that says all,
//! in two processes where one of them has to die.

mod death;
mod messages;
mod pair;
mod processes;
mod refusals;
mod signals;
mod writes;
