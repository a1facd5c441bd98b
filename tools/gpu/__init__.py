"""What can only be known on a machine with a GPU, in one script that runs from a checkout, without installation:

    python tools/gpu                    all parts on cuda:0, in under 8 minutes
    python tools/gpu --wheels FOLDER    with libraries from wheels that lie there, where they are not installed

    contract      what any device has to do, as tests/runtime/devices has it
    bits          drawn plans of one job on that GPU end with the bits of the plain loop there, updates on the GPU
    memory        what torch's allocator and the arena held, against the plan's figure and the budget
    resident      a resident job against the plain loop, run in turn

Each part is a process of its own with its own time limit; a table for people, and one line of JSON at the end.
`--backing cpu` does the same on this machine's CPU, but for what the allocator tells.

__main__ (libraries, processes, table) -> parts -> contract, models
"""
