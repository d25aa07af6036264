//! NVMe/TCP PDUs: bytes to values and back, no I/O.
