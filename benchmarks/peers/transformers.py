"""The BERT-like encoders in PyTorch, with Hugging Face's parameter names; they mirror `examples/models/bert.hpp`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, HIDDEN, LAYERS = 384, 12, 1536, 6
VOCABULARY, POSITIONS = 30522, 512


class Embeddings(nn.Module):
    """Word + token-type + position, normalised. ids `[N, S]` -> `[N, S, width]`."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        x = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        return self.LayerNorm(x + self.position_embeddings(positions))


class SelfAttention(nn.Module):
    """Separate query, key and value projections; `bias` `[N, 1, 1, S]` is added to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        split = (x.shape[0], x.shape[1], HEADS, WIDTH // HEADS)
        query, key, value = (layer(x).view(split).permute(0, 2, 1, 3) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(WIDTH // HEADS)
        context = torch.matmul(torch.softmax(scores + bias, -1), value).permute(0, 2, 1, 3).contiguous()
        return context.view(x.shape[0], x.shape[1], WIDTH)


class Output(nn.Module):
    """Projection, residual, normalisation."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(), "output": Output(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, HIDDEN)})
        self.output = Output(HIDDEN)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class Bert(nn.Module):
    """ids and mask `[N, S]` int64 (1 token, 0 padding) -> hidden states `[N, S, width]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embeddings(ids)
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.encoder["layer"]:
            x = layer(x, bias)
        return x


class SentenceClassifier(Bert):
    """Mean over the tokens that are not padding, brought to length one, then a linear layer -> `[N, 2]`."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = super().forward(ids, mask)
        keep = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * keep).sum(1) / keep.sum(1)
        return self.classifier(functional.normalize(mean, dim=1))
