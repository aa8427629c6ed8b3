#!/usr/bin/env bash
# Keras's Rescaling with a scale for each channel multiplies rows where a saved model is loaded under channels_first.
#
# Expected: a saved model answers alike whoever loads it. Layers that depend on the order of axes keep theirs in the file: Conv2D's
# data_format says channels_last after loading, too, whatever keras.config.image_data_format() is then.
#
# What happens: Rescaling has no data_format, and asks for the setting at each call: with channels_first a scale of three numbers is
# reshaped to (3, 1, 1) (keras/src/layers/preprocessing/rescaling.py, call; the documentation of `scale` says "Float"). On images (H, W, 3)
# that is an error, and where H is 3 each row is multiplied by what is meant for a channel, without a word. `offset` is not reshaped.
#
# Version: keras 3.15.1, jax 0.10.2. Seen on 2026-11-30; logits of a model of Rescaling([1, 10, 100]) and Conv2D:
#   channels_last: loaded Conv2D is channels_last, largest difference 0.000
#   channels_first: loaded Conv2D is channels_last, largest difference 1.501
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Python 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check keras==3.15.1 jax==0.10.2
cat >load.py <<'CODE'
import keras
import numpy as np

layers = [keras.Input((3, 3, 3)), keras.layers.Rescaling([1.0, 10.0, 100.0]), keras.layers.Conv2D(2, 3, use_bias=False)]
images = np.random.default_rng(0).random((1, 3, 3, 3), np.float32)
keras.config.set_image_data_format("channels_last")
model = keras.Sequential(layers)
model.layers[-1].set_weights([np.random.default_rng(1).normal(size=(3, 3, 3, 2)).astype(np.float32)])
saved = np.asarray(model(images))
model.save("model.keras")
found = []
for setting in ("channels_last", "channels_first"):
    keras.config.set_image_data_format(setting)
    loaded = keras.models.load_model("model.keras")
    difference = abs(np.asarray(loaded(images)) - saved).max() / abs(saved).max()
    print(f"{setting}: loaded Conv2D is {loaded.layers[-1].data_format}, largest difference {difference:.3f}")
    found.append((loaded.layers[-1].data_format, difference > 0.1))
raise SystemExit(found != [("channels_last", False), ("channels_last", True)])
CODE
KERAS_HOME=$work KERAS_BACKEND=jax venv/bin/python load.py
