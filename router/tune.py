"""Tunes the token table, the counts and the hidden layer end to end, on all labels at once.

Owns the torch side of training; what it returns is plain arrays. The heads trained here only shape
what lies below them: scikit-learn fits the ones that ship.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from router.network import FARTHEST, N_KINDS, Floats

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Targets:
    """What every example says; NaN and -1 stand for unknown.

    numbers: float32 [examples, regressions]; classes: one int64 [examples] per classification;
    n_classes: how many classes each has; weight: float32 [examples].
    """

    numbers: Floats
    classes: Sequence[NDArray[np.int64]]
    n_classes: Sequence[int]
    weight: Floats


@dataclass(frozen=True, slots=True)
class Tuned:
    """The tuned lower part: tables float32 [vocabulary, dim] and [vocabulary, kinds], and so on."""

    vectors: Floats
    counts: Floats
    mean: Floats
    spread: Floats
    hidden: Floats
    hidden_bias: Floats


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """How long and how fast; the defaults were chosen by leaving one source out."""

    width: int = 48
    epochs: int = 5
    batch: int = 256
    table_rate: float = 2e-3
    rate: float = 4e-3
    token_dropout: float = 0.1
    dropout: float = 0.2


class _Network(nn.Module):
    def __init__(self, table: Floats, n_facts: int, targets: Targets, config: TuneConfig) -> None:
        super().__init__()
        dim = table.shape[1]
        n_inputs = dim + N_KINDS + n_facts
        self.vectors = nn.EmbeddingBag.from_pretrained(
            torch.tensor(table / table.std()), freeze=False, mode="mean"
        )
        self.raw_counts = nn.Parameter(torch.randn(len(table), N_KINDS) * 0.5 - 3)
        self.standard = nn.BatchNorm1d(n_inputs, affine=False, momentum=0.02)
        self.hidden = nn.Linear(n_inputs, config.width)
        self.dropout = nn.Dropout(config.dropout)
        n_logits = targets.numbers.shape[1] + sum(targets.n_classes)
        self.heads = nn.Linear(n_inputs + config.width, n_logits)

    def forward(self, flat: Any, offsets: Any, facts: Any) -> Any:
        pooled = self.vectors(flat, offsets)
        counts = nn.functional.softplus(self.raw_counts)
        counted = nn.functional.embedding_bag(flat, counts, offsets, mode="sum")
        inputs = self.standard(torch.cat([pooled, torch.log1p(counted), facts], 1))
        inputs = inputs.clamp(-FARTHEST, FARTHEST)
        hidden = self.dropout(torch.relu(self.hidden(inputs)))
        return self.heads(torch.cat([inputs, hidden], 1))


def tuned(
    table: Floats,
    ids: Sequence[NDArray[np.int32]],
    facts: Floats,
    targets: Targets,
    *,
    seed: int,
    config: TuneConfig | None = None,
    progress: Progress = lambda step: None,
) -> Tuned:
    """Return the tuned lower part of the network; one thread, seeded, minutes long.

    Args:
        table: float32 [vocabulary, dim], where the token vectors start; row 0 is the unknown.
        ids: token ids of each example, none empty.
        facts: float32 [examples, facts].
        targets: what there is to learn.
        seed: of initial weights, order and dropout.
        config: how long and how fast.
        progress: called with a line for each epoch.
    """
    config = config or TuneConfig()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    network = _Network(table, facts.shape[1], targets, config)
    tables = [network.vectors.weight, network.raw_counts]
    others = [*network.hidden.parameters(), *network.heads.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": tables, "lr": config.table_rate, "weight_decay": 0.0},
            {"params": others, "lr": config.rate, "weight_decay": 1e-2},
        ]
    )
    for epoch in range(config.epochs):
        for group, rate in zip(
            optimizer.param_groups, (config.table_rate, config.rate), strict=True
        ):
            group["lr"] = rate * (1 - epoch / config.epochs)
        shuffled = order.permutation(len(ids))
        total = 0.0
        for start in range(0, len(shuffled) - 1, config.batch):
            rows = shuffled[start : start + config.batch]
            if len(rows) < 2:
                continue
            flat, offsets = _bags([ids[row] for row in rows], order, config.token_dropout)
            logits = network(flat, offsets, torch.from_numpy(facts[rows]))
            loss = _loss(logits, targets, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        progress(f"tuning, epoch {epoch + 1} of {config.epochs}: loss {total / len(ids):.4f}")
    return _arrays(network)


def _bags(ids: Sequence[NDArray[np.int32]], order: Any, dropout: float) -> tuple[Any, Any]:
    kept = []
    for row in ids:
        tokens = np.asarray(row)
        chosen = tokens[order.random(len(tokens)) >= dropout]
        kept.append(chosen if len(chosen) else tokens[:1])
    offsets = np.cumsum([0, *(len(tokens) for tokens in kept[:-1])])
    return torch.from_numpy(np.concatenate(kept)), torch.from_numpy(offsets)


def _loss(logits: Any, targets: Targets, rows: Any) -> Any:
    weight = torch.from_numpy(targets.weight[rows])
    n_numbers = targets.numbers.shape[1]
    numbers = torch.from_numpy(targets.numbers[rows])
    known = torch.isfinite(numbers)
    error = nn.functional.smooth_l1_loss(
        logits[:, :n_numbers], torch.nan_to_num(numbers), reduction="none"
    )
    loss = (error * known * weight[:, None]).sum() / len(rows)
    start = n_numbers
    for labels, size in zip(targets.classes, targets.n_classes, strict=True):
        chosen = torch.from_numpy(labels[rows])
        entropy = nn.functional.cross_entropy(
            logits[:, start : start + size], chosen, ignore_index=-1, reduction="none"
        )
        loss = loss + (entropy * weight).sum() / len(rows)
        start += size
    return loss


def _arrays(network: _Network) -> Tuned:
    network.eval()
    with torch.no_grad():
        return Tuned(
            vectors=network.vectors.weight.numpy(),
            counts=nn.functional.softplus(network.raw_counts).numpy(),
            mean=_array(network.standard.running_mean),
            spread=np.sqrt(_array(network.standard.running_var) + network.standard.eps),
            hidden=network.hidden.weight.numpy().T.copy(),
            hidden_bias=network.hidden.bias.numpy(),
        )


def _array(tensor: torch.Tensor | None) -> Floats:
    assert tensor is not None  # BatchNorm keeps running statistics unless told not to
    return np.asarray(tensor.numpy(), dtype=np.float32)
