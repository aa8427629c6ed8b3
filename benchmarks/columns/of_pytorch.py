"""PyTorch's answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from columns.rows import attempt, padding, spread

NAME = "PyTorch"


def version() -> str:
    return str(torch.__version__).partition("+")[0]


def line(*values: float) -> Any:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1)


def lrn_odd() -> Any:
    return F.local_response_norm(torch.ones(1, 8, 1, 1), 5, 1, 1, 1)[0, [0, 4]]


def lrn_even() -> Any:
    return F.local_response_norm(torch.ones(1, 8, 1, 1), 4, 1, 1, 1)[0, [0, 4, 7]]


def lrn_defaults() -> Any:
    layer = nn.LocalResponseNorm(5)
    return ["must be told", layer.alpha, layer.beta, layer.k]


def max_size() -> Any:
    return [F.max_pool1d(torch.ones(1, 1, 32), 3, 2, ceil_mode=ceil).shape[2] for ceil in (False, True)]


def max_dropped() -> Any:
    return F.max_pool1d(line(1, 2, 3, 4), 2, 3, 1, ceil_mode=True)


def max_beyond() -> Any:
    return F.max_pool1d(line(1, 2, 3, 4, 5), 1, 3, ceil_mode=True)


def max_nan() -> Any:
    nan = float("nan")
    return F.max_pool1d(line(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan), 4)


def max_ties() -> Any:
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    return x.grad


def avg_border() -> Any:
    x = torch.ones(1, 1, 3, 3)
    return [F.avg_pool2d(x, 3, 1, 1, count_include_pad=counted)[0, 0, 0, 0] for counted in (True, False)]


def avg_ceil() -> Any:
    return F.avg_pool1d(line(1, 1, 1, 1), 3, 2, ceil_mode=True)[0, 0, -1]


def avg_ceil_padded() -> Any:
    return F.avg_pool1d(line(1, 1, 1, 1), 3, 2, 1, ceil_mode=True)[0, 0, -1]


def same_stride() -> Any:
    w = torch.zeros(1, 1, 11)
    w[..., -1] = 1
    x = torch.arange(1.0, 225.0).reshape(1, 1, -1)
    return attempt(lambda: padding(F.conv1d(x, w, stride=4, padding="same").numpy(), 4, 224, 11))


def conv_asymmetric() -> Any:
    return attempt(lambda: F.conv1d(line(1, 1, 1, 1), torch.ones(1, 1, 3), padding=(0, 2)))


def relu_special() -> Any:
    return F.relu(torch.tensor([float("nan"), -0.0, -float("inf")]))


def relu_gradient() -> Any:
    x = torch.tensor([0.0, float("nan")], requires_grad=True)
    F.relu(x).sum().backward()
    return x.grad


def bn_running() -> Any:
    layer = nn.BatchNorm1d(1)
    layer(torch.tensor([[0.0], [2.0]]))
    return [layer.running_mean, layer.running_var]


def bn_defaults() -> Any:
    layer = nn.BatchNorm1d(1)
    return [layer.eps, 1 - layer.momentum]


def dropout_form() -> Any:
    x = torch.ones(100)
    return [F.dropout(x, 0.5).max(), F.dropout(x, 0.5, training=False).max()]


def dropout_all() -> Any:
    return F.dropout(torch.tensor([1.0, -1.0, float("inf")]), 1.0)


def loss_mean() -> Any:
    return F.cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]))


def loss_far() -> Any:
    return F.cross_entropy(torch.tensor([[0.0, 200.0]]), torch.tensor([0]))


def after(rates: list[float], **options: Any) -> Any:
    w = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], rates[0], momentum=0.9, **options)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.full((1,), 0.5)
        optimizer.step()
    return f"{w.item():.6f}"


def sgd_steps() -> Any:
    return after([0.1, 0.1], weight_decay=0.01)


def sgd_drop() -> Any:
    return after([0.1, 0.01])


def sgd_nesterov() -> Any:
    return after([0.1, 0.1], nesterov=True)


def adam_epsilon() -> Any:
    w = torch.zeros(1, requires_grad=True)
    w.grad = torch.full((1,), 1e-3)
    torch.optim.Adam([w], 1.0, eps=1e-3).step()
    return w.detach()


def adam_default() -> Any:
    return torch.optim.Adam([torch.ones(1)]).defaults["eps"]


def he_normal() -> Any:
    return spread(nn.init.kaiming_normal_(torch.empty(200, 1000)).numpy(), (2 / 1000) ** 0.5)


def truncated_normal() -> Any:
    return spread(nn.init.trunc_normal_(torch.empty(200, 1000), std=0.01).numpy(), 0.01)
