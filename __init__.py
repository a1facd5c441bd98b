"""hydraplan: plan the training of many large models on few small GPUs, then replay the plan.

    hydraplan.planner   a workload in, a plan out
    hydraplan.plans     the language of plans: types, files, analysis, prediction, checks
    hydraplan.runtime   a plan in, trained models out
    hydraplan.tools     the command line, reports, benchmarks

This file makes the repository's own folder the package `hydraplan` (see package-dir in pyproject.toml).
"""
