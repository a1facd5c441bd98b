"""What a graph and its shards cost: work, bytes and, on a profile, time.

operators -> nodes -> forms, liveness -> shards -> facts         catalogue, calibrate: profiles of processors
"""
