"""`pellucid bench`: figures measured on this machine, in this run, beside a peer where there is one. Nothing here is a test."""
