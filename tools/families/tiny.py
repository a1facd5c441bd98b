"""The entries of transformers' mapping tables, each as a tiny model with samples that fit its forward.

    mapping tables -> entries -> tiny configuration -> model, samples

An entry is a row of a table such as `causal-lm/gpt2`. Its configuration is the class's default, shrunk by name
(`SIZES`), sub-configurations too; where that does not do, `overrides.json` says what else it needs, and why.
Nothing of hydraplan is imported: the list of what it has to be able to train must not depend on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

OVERRIDES = Path(__file__).with_name("overrides.json")
TABLES: dict[str, Mapping[str, Sequence[str]]] = {
    "causal-lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked-lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq-lm": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}
IMAGES = "image-classification"
TOKENS = 128
"""Size of every vocabulary."""
SPECIAL = 100
"""Special tokens with larger numbers get those from here on; batches hold smaller ones."""
LENGTH = 16
"""Tokens in a sample."""
LABELS = 4
"""Classes of images."""
DROPOUT = 0.1
"""Of every dropout, where dropout is on."""

SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab.*size.*|.*vocab_size|.*codebook_size|n_token|.*ngram_vocab.*", TOKENS),
    (r".*(experts_per_tok.*|top_?k|moe_k|topk_method)", 2),
    (r".*topk_group", 1),
    (r"n_group|n_groups|.*mamba_n_groups|num_expert_group", 2),
    (r".*(num_experts|local_experts|routed_experts|moe_num_experts)", 4),
    (r".*(key_value|kv).*heads.*|num_kv_heads|kv_n_heads", 2),
    (r"(mamba_n|mamba_num|n_mamba)_heads?", 8),
    (r".*heads(_per_layer)?|n_head", 4),
    (r".*(_layers|n_layer|num_layers|_blocks)|depth|conf_num_hidden_layers", 2),
    (r".*head_dim|.*head_size|d_kv|d_head|mamba_d_head|dim_head|kv_channels", 8),
    (r".*rank|.*state_size|.*d_state|.*bottleneck_size", 8),
    (r"(n_positions|n_ctx|.*max_.*(position|length|len|seq).*|.*context_length|.*seq_length)", 64),
    (r"image_size", 32),
    (r"patch_size", 8),
    (r".*(sliding_window|window_size|local_attention|chunk_size|attention_window)(_size)?", 8),
    (r".*(intermediate_size|ffn_dim|ffn_hidden_size|d_ff|d_inner|ffn_size|n_inner|dff|dim_ff|hidden_dim)(_mlp)?", 48),
    (r".*(moe|expert).*(intermediate|hidden).*size", 24),
    (
        r"(.*_)?(hidden_size|d_model|n_embd|embed_dim|emb_dim|embedding_size|embedding_dim|dim|projection_dim"
        r"|proj_dim|output_dim|out_dim|in_dim|lru_width|num_channels_out|attention_hidden_size|out_hidden_size)"
        r"(_global|_size)?",
        32,
    ),
)
"""Name of a configuration value -> its largest size. The first that matches counts; smaller ones stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of a mapping table."""

    table: str
    model_type: str
    class_name: str

    @property
    def name(self) -> str:
        return f"{self.table}/{self.model_type}"


def entries() -> tuple[Entry, ...]:
    """All rows of the four tables; of several classes in a row the first, unless an override names one."""
    return tuple(
        Entry(table=table, model_type=model_type, class_name=_override(f"{table}/{model_type}").get("class", first))
        for table, mapping in TABLES.items()
        for model_type, classes in mapping.items()
        for first in [classes if isinstance(classes, str) else classes[0]]
    )


def entry(name: str) -> Entry:
    """The entry of a name such as `causal-lm/gpt2`."""
    return next(each for each in entries() if each.name == name)


@cache
def _overrides() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(OVERRIDES.read_text())
    return found


def _override(name: str) -> dict[str, Any]:
    """What an entry needs: that of its model type in any table, with that of its own name over it."""
    model_type = name.partition("/")[2]
    return merged(_overrides().get(model_type, {}), _overrides().get(name, {}))


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both, nested dicts too; the other's values win."""
    result = dict(one)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


# -- configurations -----------------------------------------------------------------------------------


def tiny_config(which: Entry, *, dropout: bool) -> PreTrainedConfig:
    """The entry's configuration, few layers and small widths; `dropout`: with every dropout it has, or none."""
    override = _override(which.name)
    config_class: type[PreTrainedConfig] = getattr(transformers, which.class_name).config_class
    given = override.get("config", {})
    default = config_class(**override.get("default", {}))
    values = merged(_shrunk(default), given)
    if which.table == IMAGES:
        values["num_labels"] = LABELS
    config = config_class(**values)
    most = DROPOUT if override.get("dropout", True) else 0.0
    for each in _with_nested(config):
        for name, value in vars(each).items():
            if _is_dropout(name, value):
                setattr(each, name, _rate(value, most if dropout else None))
    return config


def _shrunk(default: PreTrainedConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    specials = _special_tokens(default)
    for field in fields(default):
        value = _value(default, field)
        if isinstance(value, PreTrainedConfig):
            values[field.name] = {**_shrunk(value), "model_type": value.model_type}
        elif field.name in specials:
            values[field.name] = specials[field.name]
        elif (field.default is not None and field.default is not MISSING) or field.default_factory is not MISSING:
            small = _small(field.name, value)
            if small != value:
                values[field.name] = small
        elif field.name == "head_dim" and value is None:
            values[field.name] = 8
    values |= _layer_types(default)
    heads = {field.name: _value(default, field) for field in fields(default) if field.name.endswith("_heads")}
    if "num_key_value_heads" in values and heads["num_key_value_heads"] == heads.get("num_attention_heads"):
        values["num_key_value_heads"] = values["num_attention_heads"]
    return values


def _value(config: PreTrainedConfig, field: Field[Any]) -> Any:
    try:
        return getattr(config, field.name, None)
    except Exception:  # it differs between layers
        return field.default


def _special_tokens(config: PreTrainedConfig) -> dict[str, int]:
    names = [
        field.name
        for field in fields(config)
        if re.fullmatch(r".*token_(id|index)", field.name)
        and type(value := _value(config, field)) is int
        and value >= SPECIAL
    ]
    return {name: SPECIAL + number for number, name in enumerate(sorted(names))}


def _small(name: str, value: Any) -> Any:
    """A configuration value shrunk by its name."""
    if isinstance(value, list | tuple):
        if name in ("depths", "num_block_repeats", "stage_num_blocks", "stage_numb_of_layers", "n_attn_blocks"):
            return [min(each, 2) for each in value]
        if value and all(type(each) is int for each in value) and re.search(r"sizes|dims?$|channels|embed", name):
            least = min(value)
            return [_multiple_of_8(each * 16 / least) for each in value] if least > 16 else value
        return type(value)(_small(name, each) for each in value) if name == "image_size" else value
    if type(value) is not int:
        return value
    most = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), value)
    return min(value, most)


def _multiple_of_8(value: float) -> int:
    return max(8, 8 * round(value / 8))


def _layer_types(default: PreTrainedConfig) -> dict[str, Any]:
    """A layer of every kind that the default has, at least two layers."""
    kinds = {
        field.name: list(value)
        for field in fields(default)
        if re.fullmatch(r"(mlp_)?layer_types|layers_block_type", field.name)
        and isinstance(value := _value(default, field), list | tuple)
    }
    if not kinds or len({len(each) for each in kinds.values()}) > 1:
        return {}
    chosen = list(dict.fromkeys(zip(*kinds.values(), strict=True)))
    chosen = chosen if len(chosen) > 1 else chosen * 2
    return {"num_hidden_layers": len(chosen)} | {
        name: [each[number] for each in chosen] for number, name in enumerate(kinds)
    }


def _with_nested(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            yield from _with_nested(value)


def _is_dropout(name: str, value: Any) -> bool:
    """A probability of dropping, or several; layers left out at random are not (export cannot trace the choice)."""
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_dropout(name, each) for each in value)
    if not isinstance(value, float) or "layerdrop" in name or "layer_drop" in name:
        return False
    return bool(re.fullmatch(r".*(dropout|pdrop|drop_rate|dropout_prob|drop_prob|drop_path_rate|jitter_noise).*", name))


def _rate(value: Any, most: float | None) -> Any:
    """The dropout as it is, `most` where it is 0; None: all of them 0."""
    if isinstance(value, list | tuple):
        return type(value)(_rate(each, most) for each in value)
    return 0.0 if most is None else value or most


# -- models and batches -------------------------------------------------------------------------------


def make_model(which: Entry, *, dropout: bool = False) -> nn.Module:
    """The entry's model with a tiny configuration, in training mode."""
    factory: Any = getattr(transformers, which.class_name)
    model: nn.Module = factory(tiny_config(which, dropout=dropout))
    return model.train()


def make_item(which: Entry, number: int) -> dict[str, Tensor]:
    """One sample, the same at every call: what the model's forward takes, its labels included."""
    override = _override(which.name)
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(which.name.encode()).digest()[:6]) + number)
    return {name: _drawn(shape, generator) for name, shape in _inputs(which, override.get("batch", {})).items()}


def _inputs(which: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    if which.table == IMAGES:
        default = {
            "pixel_values": {"shape": [3, 32, 32]},
            "labels": {"shape": [], "below": LABELS},
        }
    else:
        tokens = {"shape": [LENGTH], "from": 10, "below": SPECIAL}
        default = {"input_ids": tokens, "labels": tokens}
    return {name: each for name, each in merged(default, given).items() if each is not None}


def _drawn(what: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """A tensor of `shape`: normal floats; with `below` whole numbers in [`from`, `below`); with `values` just those."""
    if "values" in what:
        return torch.tensor(what["values"], dtype=getattr(torch, what.get("dtype", "int64")))
    if "below" in what:
        drawn = torch.randint(what.get("from", 0), what["below"], tuple(what["shape"]), generator=generator)
        return drawn.to(getattr(torch, what.get("dtype", "int64")))
    return torch.randn(tuple(what["shape"]), generator=generator)
