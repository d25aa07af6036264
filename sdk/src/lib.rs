//! What the author of a Drivebay plugin sees: safe traits over the ABI.
