//! Protocols as IPVS follows them: states, timeouts, who may open a connection.
