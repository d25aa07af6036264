//! io_uring and libaio submission rings with a safe face.
