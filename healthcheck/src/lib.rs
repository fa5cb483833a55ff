//! Health checks as sans-IO state machines. The checkers arrive with the keepalived replacement.
#![forbid(unsafe_code)]
