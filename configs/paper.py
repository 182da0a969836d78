"""All small experiments of the paper's figures on the embedded game, and one page of their results.

    python launch/paper.py

Takes two hours on two CPU cores (docs/experiments.md). After a stop or kill, run the same command again to resume;
finished programs and stages are skipped. The result is WORKDIR/report.html, rewritten after each program.

Variants: `:demo` (default), and `:small`, which tries all of it out in minutes: its verdicts mean nothing.
"""

from ml_collections import ConfigDict

SIZES = ("demo", "small")


def get_config(variant: str = "demo") -> ConfigDict:
    if variant not in SIZES:
        raise ValueError(f"configs/paper.py has no variant {variant!r}; choose one of {', '.join(SIZES)}")
    config = ConfigDict()

    # Folder of all experiments; a run in an existing folder resumes.
    config.workdir = "runs/paper"
    # Variant of the programs' configs.
    config.size = variant
    # Names of the programs to run, of PROGRAMS in launch/paper.py; empty: all.
    config.programs = ()
    # Programs that run in parallel; each uses one processor core. Use 1 with an accelerator.
    config.max_parallel = 2
    return config
