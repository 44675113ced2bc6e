"""Results for people: pictures (`plots`), the table of a benchmark (`table`), what commands print (`terminal`), and
how scores are called and written (`names`). Takes results as they stand in JSON, and hands on files and lines.
"""
