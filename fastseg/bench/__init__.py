"""`fastseg bench`: what the kernels cost beside their rivals, each checked before it is timed.

`cases` holds the work as data and `providers` its implementations; `worker` measures cases in a
process of their own, one case on a CPU, all of them on a GPU; `workers` starts it under both heaps;
`runner` writes the JSON record;
`targets` and `table` judge and show what they found.
"""


def main(argv=None) -> int:
    """Run `fastseg bench`; returns the exit code.

    Args:
        argv: the words behind `fastseg bench`, by default the process's; `--help` lists them.
    """
    from fastseg.bench.runner import main

    return main(argv)
