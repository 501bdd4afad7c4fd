//! The service that runs in the test guests.
