//! A state machine and an in-process cluster, for tests and measurements.
