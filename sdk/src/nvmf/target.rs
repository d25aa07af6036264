//! The target's side of NVMe over Fabrics.
