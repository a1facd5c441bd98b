"""Operators that trace and that no run could replay: found in the graph, told with their line and what does instead.

embedding(..., sparse=True)     a gradient without strides, which no arena holds
embedding(..., max_norm=...)    the forward writes to its parameter
max_unpool2d, put_              no deterministic form on the CPU (torch.use_deterministic_algorithms lists them)
"""

from __future__ import annotations

from torch.fx import Graph, Node

from hydraplan.planner.frontend.tracing.operators import argument, base_name
from hydraplan.planner.frontend.tracing.refusals import where
from hydraplan.plans.language.errors import TraceError

SPARSE = ("embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
UNPOOLING = ("max_unpool2d", "max_unpool3d")
PUT = ("put", "put_")


def refuse_unsuited(graph: Graph) -> None:
    """Raises TraceError for the first of them."""
    for node in graph.nodes:
        told = _told(node) if node.op == "call_function" and hasattr(node.target, "_schema") else None
        if told is not None:
            raise TraceError(f"{where(node.meta['source'])}: {told}")


def _told(node: Node) -> str | None:
    name = base_name(node)
    if name in SPARSE and argument(node, "sparse"):
        return "the gradient of this embedding is sparse, which no arena holds; make it with sparse=False"
    if name == "embedding_renorm_":
        return (
            "max_norm writes to the embedding's weights in the forward; leave it out, and scale what the embedding "
            "gives (h * (max_norm / h.norm(dim=-1, keepdim=True)).clamp(max=1))"
        )
    if name in UNPOOLING:
        return f"{name} has no deterministic form, so that no run could be repeated; interpolate, or use ConvTranspose"
    if name in PUT and not argument(node, "accumulate"):
        return (
            f"{name} without accumulate has no deterministic form, so that no run could be repeated; "
            "use scatter, index_copy or torch.where"
        )
    return None
