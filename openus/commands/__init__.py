"""What each command of `openus` does, between its options and the work; `openus.cli` has the commands themselves.

build, fetch, verify, repair, audit, copies, index, publish, doctor, add_source    the commands
views, missing, progress    what people read: tables, lists, what is missing, bars
options, build_options, dedup_options, publish_options    options that several commands have, or one has many of
"""
