//! JSON-RPC 2.0 as SPDK speaks it: framing, messages, method declarations.
