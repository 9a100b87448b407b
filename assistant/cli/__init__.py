"""The command line. One short file a command; nothing heavy is imported until the command runs.

stdout is data, stderr is narration. Exit codes: 0 ok, 1 error, 2 usage, 3 model, guard or log unusable, 10 prompt blocked,
11 output blocked, 12 flagged with `--strict`, 130 interrupted.
"""
