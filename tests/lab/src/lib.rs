//! End-to-end lab: namespaces, guests, clients and the demo.
