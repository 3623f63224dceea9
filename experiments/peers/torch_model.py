"""The official code's model in PyTorch, as fast as PyTorch allows, with weights copied from ours.

One matrix product per layer, layouts in which none needs a transposed copy, fused Adam, inference
mode for rendering. It comes in two orders:

    dense   all experts at every point, then one product with the codes, zeros included
    folded  the codes into the heads first, which is this library's order for a trunk
"""

import math

import numpy as np
import torch
from torch.nn import functional

LEARNING_RATE = 1e-4
FIT_RATE = 1e-2
# Points whose basis PyTorch's dense order holds at a time when it renders.
DENSE_CHUNK = 1024
FOLDED_CHUNK = 4096
ORDERS = ("dense", "folded")


def tensor(array):
    """A contiguous copy of a jax or NumPy array."""
    return torch.from_numpy(np.array(array, np.float32))


class TorchModel:
    """The trunk, the heads and the codebook of a `Model`, its heads laid out for one order."""

    def __init__(self, model, order):
        dictionary = model.dictionary
        self.order, self.activation = order, dictionary.activation
        self.omega0, self.channels = dictionary.omega0, dictionary.channels
        self.num_experts, self.width = dictionary.num_experts, dictionary.width
        self.frequencies = tensor(dictionary.embedding.frequencies[...]).T.contiguous()
        self.kernels = [tensor(kernel[...].T) for kernel in dictionary.kernels]
        self.biases = [tensor(bias[...]) for bias in dictionary.biases]
        # Folded: [E, H C] and [E, C]. Dense, as a layer whose outputs have experts last: [C E, H].
        axes = (2, 0, 1) if order == "folded" else (1, 2, 0)
        heads = np.transpose(np.asarray(dictionary.head_kernel[...]), axes)
        head_bias = np.asarray(dictionary.head_bias[...])
        if order == "folded":
            self.heads, self.head_bias = tensor(heads.reshape(len(heads), -1)), tensor(head_bias)
        else:
            self.heads = tensor(heads.reshape(-1, heads.shape[-1]))
            self.head_bias = tensor(head_bias.T.reshape(-1))
        self.codes, self.bias = tensor(model.router.codes[...]), tensor(model.router.bias[...])

    def parameters(self):
        """Everything that training moves, with gradients switched on."""
        tensors = [*self.kernels, *self.biases, self.heads, self.head_bias, self.codes, self.bias]
        return [one.requires_grad_() for one in tensors]

    def double(self):
        """The same in float64, in place."""
        for name, value in list(vars(self).items()):
            if torch.is_tensor(value):
                setattr(self, name, value.double())
            elif isinstance(value, list):
                setattr(self, name, [one.double() for one in value])
        return self

    def embed(self, x):
        """x [P, D] -> [P, F]."""
        phase = x @ self.frequencies
        return torch.cat([torch.sin(phase), torch.cos(phase)], 1)

    def trunk(self, x):
        """x [P, D] -> [P, H]."""
        x = self.embed(x)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = functional.linear(x, kernel, bias)
            x = torch.sin(self.omega0 * x) if self.activation == "sine" else torch.relu(x)
        return x

    def combine(self, features, codes, bias):
        """Features [P, H], codes [S, E], bias [S, C] -> [P, C, S] dense or [P, S, C] folded."""
        if self.order == "folded":
            return self.fold(features, codes, bias)
        return self.mix(self.basis(features), codes, bias)

    def basis(self, features):
        """All experts: features [P, H] -> [P C, E]."""
        values = functional.linear(features, self.heads, self.head_bias)
        return values.view(-1, self.num_experts)

    def mix(self, basis, codes, bias):
        """Basis [P C, E] times codes [S, E], with bias [S, C] -> [P, C, S]."""
        return functional.linear(basis, codes).view(-1, self.channels, len(codes)) + bias.T

    def fold(self, features, codes, bias):
        """Codes into the heads, then the points -> [P, S, C]."""
        kernel = (codes @ self.heads).view(len(codes), self.width, self.channels)
        kernel = kernel.transpose(0, 1).reshape(self.width, -1)
        level = codes @ self.head_bias + bias
        values = torch.addmm(level.reshape(-1), features, kernel)
        return values.view(-1, len(codes), self.channels)

    def arranged(self, values):
        """Values [S, P, C] in the layout that `combine` returns."""
        return values.permute((1, 0, 2) if self.order == "folded" else (1, 2, 0)).contiguous()

    def signals_first(self, values):
        """What `combine` returns as [S, P, C]."""
        return values.permute((1, 0, 2) if self.order == "folded" else (2, 0, 1))


def kept(codes, top_k):
    """The codes with all but the top_k of largest magnitude zero; top_k 0 keeps all."""
    if not top_k:
        return codes
    chosen = codes.detach().abs().topk(top_k, sorted=False).indices
    return codes * torch.zeros_like(codes).scatter_(1, chosen, 1.0)


class TorchTraining:
    """One batch and a fused Adam over trunk, heads and codebook."""

    def __init__(self, model, top_k, points, ids, targets):
        self.model, self.top_k, self.points, self.ids = model, top_k, points, ids
        self.targets = model.arranged(targets)
        self.optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def loss(self):
        """Mean squared error of the batch."""
        codes = kept(functional.embedding(self.ids, self.model.codes), self.top_k)
        bias = functional.embedding(self.ids, self.model.bias)
        prediction = self.model.combine(self.model.trunk(self.points), codes, bias)
        return functional.mse_loss(prediction, self.targets)

    def gradient(self):
        """-> the loss; gradients lie in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss

    def step(self):
        """One step. -> the loss before it."""
        loss = self.gradient()
        self.optimizer.step()
        return loss.detach()


@torch.inference_mode()
def torch_render(model, codes, bias, points):
    """As `rendering.render_points`: -> NumPy [S, P, C]."""
    chunk = FOLDED_CHUNK if model.order == "folded" else DENSE_CHUNK
    values = torch.empty(len(codes), len(points), model.channels)
    for start in range(0, len(points), chunk):
        piece = model.combine(model.trunk(points[start : start + chunk]), codes, bias)
        values[:, start : start + chunk] = model.signals_first(piece)
    return values.numpy()


def torch_fit(model, predict, codes, bias, targets, mask, steps):
    """`gradient.descend` over codes on a support: predict(codes, bias) -> prediction."""
    codes = codes.clone().requires_grad_()
    optimizer = torch.optim.Adam([codes], FIT_RATE, fused=True)
    for number in range(steps):
        share = 0.5 * (1 + math.cos(math.pi * number / steps))
        optimizer.param_groups[0]["lr"] = FIT_RATE * (0.9 * share + 0.1)
        optimizer.zero_grad(set_to_none=True)
        loss = len(codes) * functional.mse_loss(predict(codes * mask, bias), targets)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return len(codes) * functional.mse_loss(predict(codes * mask, bias), targets)
