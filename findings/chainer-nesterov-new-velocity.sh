#!/usr/bin/env bash
# Chainer's NesterovAG puts the new velocity where its source has the old one: each gradient acts too far by momentum^2.
#
# Expected: the form of Bengio, Boulanger-Lewandowski and Pascanu 2012 (https://arxiv.org/abs/1212.0901, which Chainer's documentation
# names), v' = mu v - e g, w' = w + mu^2 v - (1 + mu) e g with the velocity before the step. Nesterov's momentum in PyTorch (nesterov=True),
# Keras, MXNet and Caffe gives the same w. From w = 1, gradient w, e = 0.1, mu = 0.9: 0.81, 0.5751, 0.327321.
#
# What happens: v is updated first and then read (chainer/optimizers/nesterov_ag.py, update_core_cpu; update_core_gpu the same). The first
# step, where the velocity before is 0, has length e (1 + mu + mu^2) g in place of e (1 + mu) g: as if the rate were 1.43 times as large.
#
# Version: chainer 7.8.1, numpy 1.23.5, CPU. Seen on 2026-11-30:
#   Chainer: 0.729, 0.458541, 0.215522
#   the article's form: 0.81, 0.5751, 0.327321
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Python 3.8 to 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'setuptools<80' wheel numpy==1.23.5
venv/bin/pip install -q --disable-pip-version-check --no-build-isolation chainer==7.8.1
cat >show.py <<'CODE'
import sys

import chainer
import numpy as np

link = chainer.Link()
with link.init_scope():
    link.w = chainer.Parameter(np.ones(1))
optimizer = chainer.optimizers.NesterovAG(lr=0.1, momentum=0.9)
optimizer.setup(link)
theirs, article, w, v = [], [], 1.0, 0.0
for _ in range(3):
    link.w.grad = link.w.array.copy()
    optimizer.update()
    theirs.append(round(link.w.array.item(), 6))
    w, v = w + 0.81 * v - 1.9 * 0.1 * w, 0.9 * v - 0.1 * w
    article.append(round(w, 6))
print("Chainer:", ", ".join(map(str, theirs)))
print("the article's form:", ", ".join(map(str, article)))
sys.exit(int(theirs != [0.729, 0.458541, 0.215522] or article != [0.81, 0.5751, 0.327321]))
CODE
venv/bin/python -W ignore show.py
