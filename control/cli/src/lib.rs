//! tidegate: the operator's command line.
