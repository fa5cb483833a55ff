//! Benchmarks of RVS.
