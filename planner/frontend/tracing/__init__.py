"""One normal graph of a job's training forward, that can be cut anywhere allowed and still gives the same bits.

trace (torch.export) -> normalize -> evaluation -> cuts -> TracedGraph (traced)

on the way in    unnoticed, modes, functions, examination, generators, kernels: what export would lose or refuse
rules            operators, keyed, buffers, dtypes, alike, descriptions
refusals         what is said of a model that cannot be traced
"""
