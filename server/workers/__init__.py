"""Several processes that serve one bundle on one port, and the process that looks after them."""
