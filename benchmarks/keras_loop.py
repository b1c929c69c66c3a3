"""The same network and losses trained by Keras on TensorFlow in eager mode, for training.py.

It runs in an interpreter of its own, since TensorFlow is no dependency of the project:

    python -m venv /tmp/keras && /tmp/keras/bin/pip install tensorflow-cpu==2.17.1
    python benchmarks/training.py --keras /tmp/keras/bin/python
"""

import argparse
import json
import os
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def build(size: int, filters: list[int]) -> keras.Model:
    """Return the paper's U-Net."""
    inputs = features = keras.Input((size, size, 1))
    skips = []
    for width in filters:
        features = layers.Conv2D(width, 3, padding="same")(features)
        features = layers.ReLU()(layers.BatchNormalization()(features))
        skips.append(features)
        features = layers.MaxPooling2D(2)(features)
    for width, skip in zip(reversed(filters), reversed(skips), strict=True):
        features = layers.Conv2DTranspose(width, 3, strides=2, padding="same")(features)
        features = layers.ReLU()(layers.BatchNormalization()(features))
        features = layers.Concatenate()([features, skip])
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(features))


def main() -> None:
    """Print the median seconds of a step and the peak memory as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--filters", type=int, nargs="+", default=[32, 64, 128, 256])
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    shape = (options.batch * (options.steps + 1), options.size, options.size)
    images = rng.random((*shape, 1), dtype=np.float32)
    truth = np.eye(2, dtype=np.float32)[(rng.random(shape) < 0.1).astype(int)]
    data = tf.data.Dataset.from_tensor_slices((images, truth)).batch(options.batch)
    model = build(options.size, options.filters)
    optimizer = keras.optimizers.Adam(1e-3)
    seconds = []
    begin = time.perf_counter()
    for pictures, labels in data:
        with tf.GradientTape() as tape:
            p = model(pictures, training=True)
            both = tf.reduce_sum(p * labels, (0, 1, 2))
            sizes = tf.reduce_sum(p + labels, (0, 1, 2))
            parts = [
                tf.reduce_mean(keras.losses.categorical_crossentropy(labels, p)),
                1 - tf.reduce_mean(both / (sizes - both)),
                1 - tf.reduce_mean(2 * both / sizes),
            ]
            loss = tf.add_n(parts) / 3
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        _ = [float(part) for part in parts]
        end = time.perf_counter()
        seconds.append(end - begin)
        begin = end
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {"seconds": statistics.median(seconds[1:]), "peak_bytes": peak}
    print(json.dumps({**measured, "version": f"TensorFlow {tf.__version__}"}))


if __name__ == "__main__":
    main()
