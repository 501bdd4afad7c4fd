//! tidegate-manager: drives migrations as journaled state machines.
