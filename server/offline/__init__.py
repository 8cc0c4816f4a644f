"""`oodguard score`: many images without a server, in this process or on Ray."""
