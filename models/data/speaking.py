"""Augmentation of cepstral features: the same word, spoken faster, by another voice, elsewhere, and partly unheard.

Few recordings must stand for all speakers. A change of the voice or the room is simple in the logarithm of the mel
spectrum, which the cosine transform behind the coefficients gives back (smoothed, as only the first ten are kept).
"""

from __future__ import annotations

import numpy as np

__all__ = ["Speaking", "cepstra_of", "spectrum_of", "stretches"]

_BANDS = 40
_COEFFICIENTS = 10
# log(1e-6), which TensorFlow's features add before the logarithm: nothing is quieter.
_FLOOR = -13.8
_MIDDLES = np.arange(_BANDS) + 0.5
# The most neighbouring frames, and bands, that are hidden.
_HIDDEN = 8

# TensorFlow's mfccs_from_log_mel_spectrograms: a DCT-II over sqrt(2 bands).
_TO_CEPSTRA = 2 * np.cos(np.pi * np.arange(_COEFFICIENTS)[:, None] * _MIDDLES / _BANDS) / np.sqrt(2 * _BANDS)
_TO_SPECTRUM = np.linalg.pinv(_TO_CEPSTRA)
# Slow shapes over the bands: loudness, tilt and two curvatures, and how much a room changes them.
_SHAPES = np.cos(np.pi * np.arange(4)[:, None] * _MIDDLES / _BANDS) * np.array([[1.0], [0.5], [0.4], [0.3]])


def spectrum_of(cepstra: np.ndarray) -> np.ndarray:
    """Logarithms of 40 mel bands from 10 coefficients. Shape: (..., 10) to (..., 40)."""
    return np.asarray(cepstra @ _TO_SPECTRUM.T)


def cepstra_of(spectrum: np.ndarray) -> np.ndarray:
    """The opposite of `spectrum_of`. Shape: (..., 40) to (..., 10)."""
    return np.asarray(spectrum @ _TO_CEPSTRA.T)


class Speaking:
    """A transform of batches of features and labels.

    Args:
        mean: Of each coefficient, with which the features were normalized.
        std: Its deviation, likewise.
        noises: Features of recordings without words.
        quiet_label: The class of such recordings, to which no noise is added.
    """

    def __init__(self, mean: np.ndarray, std: np.ndarray, noises: np.ndarray, quiet_label: int) -> None:
        self.mean, self.std, self.quiet_label = mean, std, quiet_label
        self.noises = spectrum_of(noises[:, 0] * std + mean)

    def __call__(
        self, batch: tuple[np.ndarray, np.ndarray], random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shape: features (n, 1, frames, 10), labels (n)."""
        features, labels = batch
        n = len(features)
        spectrum = spectrum_of(features[:, 0] * self.std + self.mean)
        spectrum = _spoken_faster(spectrum, random)
        spectrum = _other_voice(spectrum, random)
        spectrum = spectrum + (random.standard_normal((n, 1, len(_SHAPES))) @ _SHAPES)
        spectrum = np.where(stretches(n, spectrum.shape[1], random)[:, :, None], _FLOOR, spectrum)
        noise = self.noises[random.integers(0, len(self.noises), n)]
        is_noisy = (random.random(n) < 0.5) & (labels != self.quiet_label)
        loudness = np.where(is_noisy, random.uniform(-10.0, -4.0, n), -np.inf)
        spectrum = np.logaddexp(np.logaddexp(spectrum, noise + loudness[:, None, None]), _FLOOR)
        mean = spectrum.mean(2, keepdims=True)
        spectrum = np.where(stretches(n, _BANDS, random)[:, None, :], mean, spectrum)
        changed = (cepstra_of(spectrum) - self.mean) / self.std
        changed += 0.06 * random.standard_normal(changed.shape)
        return changed.astype(features.dtype)[:, None], labels


def _spoken_faster(spectrum: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Time stretched by some 18 %, and moved by up to 6 frames."""
    n, frames, _ = spectrum.shape
    middle = (frames - 1) / 2
    factor, shift = np.exp(0.18 * random.standard_normal((n, 1))), random.uniform(-6, 6, (n, 1))
    return _resampled(spectrum, (np.arange(frames) - middle) * factor + middle + shift)


def _other_voice(spectrum: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Frequencies scaled by some 10 %, as by another length of the throat. Source: Jaitly and Hinton 2013."""
    n = len(spectrum)
    places = _MIDDLES * np.exp(0.1 * random.standard_normal((n, 1))) - 0.5
    return _resampled(spectrum.transpose(0, 2, 1), places).transpose(0, 2, 1)


def stretches(n: int, length: int, random: np.random.Generator) -> np.ndarray:
    """Masks of up to 8 neighbours, to hide frames or bands. Shape: (n, length).

    Source: Park et al. 2019, "SpecAugment", section 2.
    """
    width = random.integers(0, _HIDDEN + 1, (n, 1))
    start = random.integers(0, length - width + 1)
    places = np.arange(length)
    return np.asarray((places >= start) & (places < start + width))


def _resampled(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows at fractional places, linearly between them. Shape: values (n, rows, ...), places (n, rows)."""
    last = values.shape[1] - 1
    places = np.clip(places, 0, last)
    before = places.astype(np.int64)
    share = (places - before)[:, :, None]
    sample = np.arange(len(values))[:, None]
    return np.asarray(values[sample, before] * (1 - share) + values[sample, np.minimum(before + 1, last)] * share)
