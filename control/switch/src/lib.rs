//! tidegated: the switch box daemon.
