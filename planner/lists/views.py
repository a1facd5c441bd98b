"""A placement with what lists need to know of its job: sizes, times and rates on its device."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from hydraplan.plans.analysis.memory import update_workspace_bytes
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.plan import Placement
from hydraplan.plans.language.workload import Cluster, Precision
from hydraplan.plans.prediction.durations import backward_us, forward_us, load_rate, profile_of, spill_rate, update_us


class JobView:
    """One placement with what lists need to know of its job."""

    def __init__(
        self,
        placement: Placement,
        layout: Layout,
        cluster: Cluster,
        *,
        microbatches: int,
        precision: Precision,
        state_copies: int,
    ) -> None:
        self.placement = placement
        self.layout = layout
        self.microbatches = microbatches
        self.precision = precision
        self.state_copies = state_copies
        self.device = next(device for device in cluster.devices if device.name == placement.device)
        self.profile = profile_of(cluster, self.device.profile)
        self.host_profile = profile_of(cluster, cluster.host_profile)
        self.load_rate = load_rate(cluster, self.device)
        self.spill_rate = spill_rate(cluster, self.device)
        self.resident = frozenset(placement.resident)
        self.keep = frozenset(placement.keep)
        self.on_device = frozenset(
            slab.name for slab in layout.slabs if slab.updated_bytes and slab.name in placement.device_updates
        )
        self.slabs = {slab.name: slab for slab in layout.slabs}
        self.gradients = {number: dict(shard.gradient_bytes) for number, shard in enumerate(layout.shards)}

    @property
    def name(self) -> str:
        return self.placement.job

    def bytes_of(self, slab: str, what: str) -> int:
        """What it takes on the device, and what a load of it moves."""
        facts = self.slabs[slab]
        return facts.parameter_bytes if what == "parameters" else self.state_copies * facts.trainable_bytes

    def changed_bytes(self, slab: str, what: str) -> int:
        """What a spill of it moves, or a load over a present copy."""
        return self.slabs[slab].updated_bytes if what == "parameters" else self.bytes_of(slab, what)

    def has_backward(self, shard: int) -> bool:
        return self.layout.shards[shard].has_backward

    def state_on_device(self, slab: str) -> bool:
        """Also of an optimizer without state: an update reads the region, though it be empty."""
        return slab in self.on_device and self.slabs[slab].trainable_bytes > 0

    def forward_us(self, shard: int) -> int:
        return forward_us(self.layout.shards[shard], self.profile.name)

    def backward_us(self, shard: int) -> int:
        """With its recompute; 0 of a shard that has no backward."""
        if not self.has_backward(shard):
            return 0
        time = backward_us(self.layout.shards[shard], self.profile.name)
        return time if shard in self.keep else time + self.forward_us(shard)

    def update_us(self, slab: str, *, host: bool) -> int:
        return update_us(self.slabs[slab], self.state_copies, self.host_profile if host else self.profile)

    def update_workspace_bytes(self, slab: str) -> int:
        return update_workspace_bytes(self.slabs[slab], self.precision)

    @cached_property
    def last_group(self) -> dict[str, tuple[int, bool]]:
        """Slab -> the last to read it in a training step: a shard, and whether its backward."""
        result = {}
        for slab in self.layout.slabs:
            again = [reader for reader in slab.readers if self.has_backward(reader)]
            result[slab.name] = (min(again), True) if again else (max(slab.readers), False)
        return result

    @cached_property
    def last_forward(self) -> dict[int, int]:
        """Shard -> the shard whose forward is the last to read its activations."""
        return {producer: max(numbers) for producer, numbers in self._readers.items()}

    @cached_property
    def backward_readers(self) -> dict[int, tuple[int, int]]:
        """Shard -> the shards whose backwards are the first and the last to read its activations; absent: none does."""
        again = {
            producer: [number for number in numbers if self.has_backward(number)]
            for producer, numbers in self._readers.items()
        }
        return {producer: (max(numbers), min(numbers)) for producer, numbers in again.items() if numbers}

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        readers: dict[int, list[int]] = defaultdict(list)
        for number, shard in enumerate(self.layout.shards):
            for producer in shard.reads:
                readers[producer].append(number)
        return readers

    @cached_property
    def first_gradient(self) -> dict[int, int]:
        """Shard -> the shard whose backward begins the gradient of its activations."""
        result: dict[int, int] = {}
        for number, shard in enumerate(self.layout.shards):
            for producer in shard.gradients_to:
                result[producer] = number
        return result

    @cached_property
    def last_gradient(self) -> dict[int, int]:
        """Shard -> the shard whose backward is the last to touch the gradient of its activations: its own, which reads
        it, or if it has none, the last that adds to it."""
        result: dict[int, int] = {}
        for number, shard in reversed(list(enumerate(self.layout.shards))):
            for producer in shard.gradients_to:
                result[producer] = producer if self.has_backward(producer) else number
        return result
