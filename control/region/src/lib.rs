//! Layout of a state region in guest memory.
