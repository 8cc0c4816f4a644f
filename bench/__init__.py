"""The comparison of all methods on suites of data: `oodguard bench`."""
