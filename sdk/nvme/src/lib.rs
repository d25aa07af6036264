//! The NVMe host driver library (initiator).
