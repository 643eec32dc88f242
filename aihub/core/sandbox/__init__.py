"""Work on untrusted input in limited child processes.

- `pool`: the hub's side. `ProcessPool` starts processes at first use, gives each to one request at a time, ends it when the
  request is cancelled or breaks a limit, and ends all of them when nothing was asked for a while.
- `launcher`: the process's side. It loads libraries once, gives up what `confinement` lists, and forks the child that sees the
  input.
- `process`, `frames`, `limits`, `confinement`: the parts of both, for programs with other needs.
"""
