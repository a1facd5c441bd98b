"""Layers that planned and then failed, or crashed at plan: LSTM, channels_last, complex, lazy, sparse and so on."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn

# -- recurrent: a hidden workspace that a kept forward holds --------------------------------------------


def series(h: Tensor, length: int = 6) -> Tensor:
    return torch.stack([h * (1 + 0.1 * step) for step in range(length)], 1)


@habit("recurrent", "equal", microbatches=2)
class StackedLSTM(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)

    def middle(self, h: Tensor) -> Tensor:
        return self.rnn(series(h))[0][:, -1]


@habit("recurrent", "equal")
class BidirectionalGRU(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True)

    def middle(self, h: Tensor) -> Tensor:
        return self.rnn(series(h))[0].mean(1)


@habit("recurrent", "equal", cuts=6)
class LSTMCells(Trunk):
    """A loop over cells, as decoders have it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        state = (torch.zeros_like(h), torch.zeros_like(h))
        for each in series(h, 4).unbind(1):
            state = self.cell(each, state)
        return state[0]


@habit("recurrent", "equal")
class ProjectedLSTM(Trunk):
    """proj_size, the state passed in, sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, WIDTH, proj_size=8)
        self.back = nn.Linear(8, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        state = (h[None, :, :8].contiguous(), h[None])
        return self.back(self.rnn(series(h).transpose(0, 1), state)[1][0][0])


@habit("recurrent", "equal", budget_bytes=700_000)
class LSTMInABudget(StackedLSTM):
    pass


@habit("recurrent", "equal")
class ElmanRNN(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(WIDTH, WIDTH, nonlinearity="relu", batch_first=True)

    def middle(self, h: Tensor) -> Tensor:
        return self.rnn(series(h))[1][0]


# -- channels_last --------------------------------------------------------------------------------------


class Images(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)

    def middle(self, h: Tensor) -> Tensor:
        return self.conv(h.view(-1, 2, 4, 4)).flatten(1)[:, :WIDTH]


@habit("channels_last", "equal", microbatches=2)
class LayerInChannelsLast(Images):
    def __init__(self) -> None:
        super().__init__()
        self.conv = self.conv.to(memory_format=torch.channels_last)


@habit("channels_last", "equal", optimizer="SGD")
class ModelInChannelsLast(Images):
    """The whole model, and its activations too: PyTorch's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.to(memory_format=torch.channels_last)

    def middle(self, h: Tensor) -> Tensor:
        image = h.view(-1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
        return self.norm(self.conv(image)).flatten(1)[:, :WIDTH]


@habit("channels_last", "equal")
def image_model_in_channels_last() -> nn.Module:
    """The factory converts what it has made."""
    return Images().to(memory_format=torch.channels_last)


@habit("channels_last", "equal")
class Volumes(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3, padding=1).to(memory_format=torch.channels_last_3d)

    def middle(self, h: Tensor) -> Tensor:
        return self.conv(h.view(-1, 2, 4, 2, 2)).flatten(1)[:, :WIDTH]


@habit("channels_last", "equal")
class TransposedWeight(Trunk):
    """A weight in another order of memory by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter((torch.randn(WIDTH, WIDTH) / 6).T)

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.mix


# -- complex numbers ------------------------------------------------------------------------------------


class RealPair(Trunk):
    """The remedy: a real parameter, seen as complex."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(WIDTH // 2 + 1, 2))

    def middle(self, h: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(h) * torch.view_as_complex(self.filter), n=WIDTH)


@habit("complex parameters", "either", "RealPair", microbatches=2)
class GlobalFilter(Trunk):
    """GFNet, AFNO: a filter of frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(WIDTH // 2 + 1, dtype=torch.cfloat))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(h) * self.filter, n=WIDTH)  # habit


@habit("complex parameters", "either", "RealPair")
class ComplexLinear(Trunk):
    """A layer of complex dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH // 2, WIDTH // 2, dtype=torch.cfloat)  # habit

    def middle(self, h: Tensor) -> Tensor:
        made = self.mix(torch.complex(h[:, : WIDTH // 2], h[:, WIDTH // 2 :]))  # habit
        return torch.cat([made.real, made.imag], -1)


@habit("complex parameters", "either", "RealPair")
class StateSpace(Trunk):
    """S4D: complex poles, frozen, and a real part that is trained."""

    def __init__(self) -> None:
        super().__init__()
        poles = torch.complex(-0.5 * torch.ones(8), torch.arange(8).float())
        self.poles = nn.Parameter(poles, requires_grad=False)  # habit
        self.out = nn.Linear(8, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        kernel = torch.exp(self.poles[:, None] * torch.arange(WIDTH))  # habit
        return self.out((h.to(kernel.dtype) @ kernel.T).real)


@habit("complex parameters", "either", "RealPair")
class ComplexBuffer(Trunk):
    """Rotary embedding as of Llama's own code: freqs_cis in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(WIDTH // 2).float()
        self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles))  # habit

    def middle(self, h: Tensor) -> Tensor:
        made = torch.view_as_complex(h.reshape(-1, WIDTH // 2, 2)) * self.rotation  # habit
        return torch.view_as_real(made).flatten(1)


@habit("complex parameters", "equal")
class FrequenciesOnly(RealPair):
    """Complex activations between real parameters; they cross cuts."""


# -- no deterministic form ------------------------------------------------------------------------------


class Unpooled(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return F.interpolate(F.max_pool1d(h[:, None], 2), scale_factor=2)[:, 0]


@habit("no deterministic form", "either", "Unpooled", microbatches=2)
class MaxUnpool(Trunk):
    """SegNet."""

    def middle(self, h: Tensor) -> Tensor:
        pooled, places = F.max_pool1d(h[:, None], 2, return_indices=True)
        return F.max_unpool1d(pooled, places, 2)[:, 0]  # habit


@habit("no deterministic form", "either", "Unpooled")
class MaxUnpoolLayer(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def middle(self, h: Tensor) -> Tensor:
        return self.unpool(*self.pool(h.view(-1, 2, 4, 4))).flatten(1)  # habit


@habit("no deterministic form", "either", "Unpooled")
class Put(Trunk):
    """Tensor.put_ without accumulation."""

    def middle(self, h: Tensor) -> Tensor:
        places = torch.arange(8)
        return h.clone().put_(places, h.flatten()[places] * 2)  # habit


@habit("no deterministic form", "either", "Unpooled")
class ScatterReduced(Trunk):
    """Graph networks: a mean over neighbours."""

    def middle(self, h: Tensor) -> Tensor:
        to = (torch.arange(WIDTH) % 7).expand_as(h)
        made = torch.zeros_like(h).scatter_reduce(1, to, h, "mean", include_self=False)  # habit
        return made + torch.zeros_like(h).index_add(1, to[0], h)  # habit


@habit("no deterministic form", "either", "Unpooled")
class Histogram(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + torch.histc(h.detach(), bins=WIDTH, min=-1, max=1) / 100  # habit


# -- autocast inside of a forward -----------------------------------------------------------------------


class InBfloat16(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return torch.tanh(self.hidden(h)).float()


@habit("autocast inside", "either", "InBfloat16")
class HalfPrecision(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):  # habit
            return torch.tanh(self.hidden(h)).float()  # habit


@habit("autocast inside", "either", "InBfloat16")
class HalfByDecorator(Trunk):
    @torch.autocast("cpu", dtype=torch.float16)  # habit
    def half(self, h: Tensor) -> Tensor:
        return self.hidden(h)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return self.half(h).float()  # habit


@habit("autocast inside", "either", "InBfloat16")
class HalfForAttention(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        split = h.view(1, -1, 4, 8).transpose(1, 2)
        with torch.amp.autocast(device_type="cpu", dtype=torch.float16, cache_enabled=False):  # habit
            made = (split @ split.transpose(-1, -2)).softmax(-1) @ split  # habit
        return made.float().transpose(1, 2).reshape(-1, WIDTH)


@habit("autocast inside", "either", "InBfloat16")
class Bfloat16Inside(Trunk):
    """With autocast's cache of cast weights; the layer is used twice."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # habit
            return self.hidden(torch.tanh(self.hidden(h))).float()  # habit


@habit("autocast inside", "either", "InBfloat16", precision="autocast")
class AutocastSwitchedOff(Trunk):
    """Losses and norms in full precision within an autocast job."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # habit
            return torch.tanh(F.linear(h.float(), self.hidden.weight, self.hidden.bias))  # habit


# -- a state of its own in the state_dict ---------------------------------------------------------------


class Versioned(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        self.version = state["version"]


class Scaling(nn.Linear):
    """As of fp8 layers: a tensor as the extra state."""

    def get_extra_state(self) -> Any:
        return torch.tensor([1.0, 2.0])

    def set_extra_state(self, state: Any) -> None:
        pass


@habit("extra state", "equal", microbatches=2)
class ExtraDict(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = Versioned(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h)


@habit("extra state", "equal")
class ExtraTensor(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = Scaling(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h)


@habit("extra state", "equal")
class ExtraOfTheRoot(Trunk):
    """The root's own, None at first (as of quantizers and schedulers)."""

    def get_extra_state(self) -> Any:
        return None

    def set_extra_state(self, state: Any) -> None:
        pass


@habit("extra state", "equal", budget_bytes=40_000)
class ExtraInSeveral(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Sequential(Versioned(WIDTH, WIDTH), Versioned(WIDTH, WIDTH))

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h)


# -- weights of a class of their own --------------------------------------------------------------------


class Tagged(torch.Tensor):
    """A tensor subclass that only adds a name."""


class Wrapped(torch.Tensor):
    """As torchao's quantised weights: int8 and a scale behind a floating-point face."""

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values, self.scale = values, scale

    def __tensor_flatten__(self) -> Any:
        return ["values", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, parts: Any, context: Any, size: Any, stride: Any) -> Any:
        return cls(parts["values"], parts["scale"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].scale)
        plain = [each.values.float() * each.scale if isinstance(each, cls) else each for each in args]
        return function(*plain, **(kwargs or {}))


@habit("weights of a class", "either", "Trunk")
class QuantisedWeight(Trunk):
    def __init__(self) -> None:
        super().__init__()
        values = torch.randint(-127, 127, (WIDTH, WIDTH), dtype=torch.int8)
        self.quantised = nn.Parameter(Wrapped(values, torch.tensor(0.01)), requires_grad=False)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return F.linear(h, self.quantised)  # habit


@habit("weights of a class", "either", "Trunk")
class TaggedWeight(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.hidden.weight = nn.Parameter(self.hidden.weight.data.as_subclass(Tagged))  # habit


@habit("weights of a class", "either", "Trunk")
class QuantisedBuffer(Trunk):
    def __init__(self) -> None:
        super().__init__()
        values = torch.randint(-127, 127, (WIDTH, WIDTH), dtype=torch.int8)
        self.register_buffer("quantised", Wrapped(values, torch.tensor(0.01)))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return F.linear(h, self.quantised)  # habit


# -- copies of modules ----------------------------------------------------------------------------------


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())


@habit("copied modules", "equal", microbatches=2)
class MomentumEncoder(Trunk):
    """BYOL, MoCo: a frozen copy; its batch norm keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.online = encoder()
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.target(h)
        return self.online(h) - 0.1 * target


@habit("copied modules", "equal")
class Clones(Trunk):
    """The annotated transformer's `clones`: N copies of one layer, all starting alike."""

    def __init__(self) -> None:
        super().__init__()
        layer = encoder()
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(3)])

    def middle(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h)
        return h


@habit("copied modules", "equal")
def copy_of_a_model() -> nn.Module:
    """A factory that copies the whole model, as averaged models are made."""
    return copy.deepcopy(MomentumEncoder())


@habit("copied modules", "equal")
class TransformerOfCopies(Trunk):
    """nn.TransformerEncoder copies its layer; a buffer lies beside it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        layer.register_buffer("seen", torch.zeros(()))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def middle(self, h: Tensor) -> Tensor:
        return self.encoder(h.view(-1, 4, 8)).flatten(1)


@habit("copied modules", "either", "Trunk")
class AveragedModel(Trunk):
    """torch.optim.swa_utils.AveragedModel: a deepcopy with a counting buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(encoder()).requires_grad_(False)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.average(h)  # habit


# -- lazy modules ---------------------------------------------------------------------------------------


@habit("lazy modules", "refused", "SizesGiven")
class LazyLinear(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.LazyLinear(WIDTH)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h)  # habit


class SizesGiven(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h)


@habit("lazy modules", "refused", "SizesGiven")
class LazyStack(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(WIDTH))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return self.stack(h)  # habit


@habit("lazy modules", "refused", "SizesGiven")
class UninitialisedParameter(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.UninitializedParameter()  # habit

    def middle(self, h: Tensor) -> Tensor:
        if isinstance(self.scale, nn.UninitializedParameter):
            self.scale.materialize((WIDTH,))  # habit
        return h * self.scale  # habit


@habit("lazy modules", "either", "SizesGiven")
class LazyWithADryRun(Trunk):
    """Its constructor runs a batch through, as the documentation says: no longer lazy."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.LazyLinear(WIDTH)
        self.more(torch.zeros(2, WIDTH))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h)


# -- sparse gradients -----------------------------------------------------------------------------------


class DenseTable(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return h + self.table(h.argmax(-1))


@habit("sparse gradients", "refused", "DenseTable", says="sparse=False")
class SparseEmbedding(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WIDTH, WIDTH, sparse=True)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.table(h.argmax(-1))  # habit


@habit("sparse gradients", "refused", "DenseTable", says="sparse=False")
class SparseBag(Trunk):
    """Recommenders."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WIDTH, WIDTH, mode="sum", sparse=True)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.bag(h.topk(3).indices)  # habit


@habit("sparse gradients", "refused", "DenseTable", says="sparse=False")
class SparseByFunction(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def middle(self, h: Tensor) -> Tensor:
        return h + F.embedding(h.argmax(-1), self.table, sparse=True)  # habit


@habit("sparse gradients", "refused", "DenseTable", says="sparse_grad=False|sparse=False")
class SparseGather(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + torch.gather(self.hidden.weight, 0, h.argsort(-1), sparse_grad=True)  # habit


# -- packed sequences, max_norm, distributions ----------------------------------------------------------


class Unpacked(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def middle(self, h: Tensor) -> Tensor:
        return self.rnn(series(h))[0].mean(1)


@habit("packed sequences", "either", "Unpacked")
class PackedByConstants(Unpacked):
    def middle(self, h: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(series(h), [6, 5, 4, 3], batch_first=True)  # habit
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].mean(1)  # habit


@habit("packed sequences", "either", "Unpacked")
class PackedByLengths(Unpacked):
    """Lengths from the data: their values are read."""

    def middle(self, h: Tensor) -> Tensor:
        lengths = (h > 0).sum(-1).clamp(1, 6)
        packed = nn.utils.rnn.pack_padded_sequence(  # habit
            series(h), lengths, batch_first=True, enforce_sorted=False
        )
        return self.rnn(packed)[1][0]  # habit


@habit("packed sequences", "either", "Unpacked")
class PackedList(Unpacked):
    def middle(self, h: Tensor) -> Tensor:
        parts = [each[: 6 - number] for number, each in enumerate(series(h).unbind(0))]
        return self.rnn(nn.utils.rnn.pack_sequence(parts))[1][0]  # habit


@habit("max_norm", "either", "DenseTable")
class MaxNormEmbedding(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WIDTH, WIDTH, max_norm=1.0)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.table(h.argmax(-1))  # habit


@habit("max_norm", "either", "DenseTable")
class MaxNormBag(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WIDTH, WIDTH, max_norm=1.0)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.bag(h.topk(3).indices)  # habit


@habit("max_norm", "either", "DenseTable")
class MaxNormByFunction(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def middle(self, h: Tensor) -> Tensor:
        return h + F.embedding(h.argmax(-1), self.table, max_norm=1.0)  # habit


@habit("distributions", "either", "LikelihoodUnvalidated", says="validate_args=False")
class Likelihood(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        normal = torch.distributions.Normal(h, 1 + h.square())  # habit
        return normal.log_prob(torch.tanh(self.hidden(h)))  # habit


class LikelihoodUnvalidated(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        normal = torch.distributions.Normal(h, 1 + h.square(), validate_args=False)
        return normal.log_prob(torch.tanh(self.hidden(h)))


@habit("distributions", "either", "EntropyUnvalidated", says="validate_args=False")
class Entropy(Trunk):
    """Policy gradients: the entropy of a categorical."""

    def middle(self, h: Tensor) -> Tensor:
        return h * torch.distributions.Categorical(logits=self.hidden(h)).entropy()[:, None]  # habit


class EntropyUnvalidated(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        made = torch.distributions.Categorical(logits=self.hidden(h), validate_args=False)
        return h * made.entropy()[:, None]


@habit("distributions", "either", "DivergenceUnvalidated", says="validate_args=False", loss="evidence")
class Divergence(Trunk):
    """A VAE's KL in the loss."""


class DivergenceUnvalidated(Trunk):
    pass


def evidence(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["x"])
    checked = None if type(model) is Divergence else False
    left = torch.distributions.Normal(logits, logits.exp(), validate_args=checked)  # habit: Divergence
    right = torch.distributions.Normal(  # habit: Divergence
        torch.zeros_like(logits), torch.ones_like(logits), validate_args=checked
    )
    return torch.distributions.kl_divergence(left, right).mean() + F.cross_entropy(logits, batch["y"])
