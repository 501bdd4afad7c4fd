//! Finds libdpdk and its full compiler flags for build scripts.
