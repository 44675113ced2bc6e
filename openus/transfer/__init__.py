"""Moving bytes: from a host, a mirror or a drop folder to a verified file on this machine.

download   the one engine: ranges, retries, checksums, offline
partial    a file under way: its bytes so far, and what they belong to
lock       what was fetched before; one process at a time for each file
mirrors    other places that keep the same files
drop       files a person fetched, recognised however they were left
sniff      pages and messages that arrive in place of a file
tally      progress of several downloads as one
"""
