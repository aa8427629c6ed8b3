#!/usr/bin/env bash
# Keras's truncated normal draws values beyond two standard deviations on its PyTorch backend.
#
# Expected: "values more than two standard deviations from the mean are discarded and re-drawn"
# (https://keras.io/api/layers/initializers/, TruncatedNormal; HeNormal, GlorotNormal and LecunNormal draw so, too). On the backends for
# JAX and TensorFlow none of four million exceeds 2.
#
# What happens: the backend draws four numbers for each value, takes the first of them within the bounds, and where none of the four is
# the first as it is (keras/src/backend/torch/random.py, truncated_normal). That is one value in 1 / 0.0455^4 = 233,000: about 260 of the
# weights of AlexNet.
#
# Version: keras 3.15.1, torch 2.13.0, jax 0.10.2. Seen on 2026-11-30, seeds 0 to 3:
#   torch: 13 of 4,000,000 beyond 2
#   jax: 0 of 4,000,000 beyond 2
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Python 3.11 with pip, network and, for PyTorch, some gigabytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check keras==3.15.1 torch==2.13.0 jax==0.10.2
cat >count.py <<'CODE'
import keras

beyond = 0
for seed in range(4):
    x = keras.initializers.TruncatedNormal(stddev=1.0, seed=seed)((1000, 1000))
    beyond += int((abs(keras.ops.convert_to_numpy(x)) > 2).sum())
print(beyond)
CODE
changed=0
for backend in torch jax; do
  beyond=$(KERAS_HOME=$work KERAS_BACKEND=$backend venv/bin/python count.py)
  echo "$backend: $beyond of 4,000,000 beyond 2"
  if [ $backend = torch ]; then [ "$beyond" -gt 0 ] || changed=1; else [ "$beyond" -eq 0 ] || changed=1; fi
done
exit $changed
