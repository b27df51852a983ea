"""Reference networks, each with the recipe that trains it on real data.

``edgec train NAME`` runs a recipe, ``edgec compile models.NAME`` compiles a network.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgec.models import (
    autoencoder,
    crnn,
    detector,
    digits,
    ds_cnn,
    fashion,
    mobilenet,
    recurrent,
    resnet,
    transformer,
    unet,
)
from edgec.models.autoencoder import Autoencoder
from edgec.models.crnn import CRNN
from edgec.models.detector import Detector
from edgec.models.digits import DigitsCNN, DigitsMLP
from edgec.models.ds_cnn import DSCNN
from edgec.models.fashion import FashionCNN, LeNet
from edgec.models.mobilenet import CifarMobileNetV1, CifarMobileNetV2, MobileNetV1, MobileNetV2
from edgec.models.network import Network
from edgec.models.recipe import Recipe
from edgec.models.recurrent import GRUClassifier, LSTMClassifier
from edgec.models.resnet import ResNet8, ResNet18, ResNet20
from edgec.models.transformer import DigitsTransformer, TransformerClassifier
from edgec.models.unet import UNet

__all__ = [
    "CRNN", "DSCNN", "NETWORKS", "RECIPES", "Autoencoder", "CifarMobileNetV1", "CifarMobileNetV2", "Detector",
    "DigitsCNN", "DigitsMLP", "DigitsTransformer", "FashionCNN", "GRUClassifier", "LSTMClassifier", "LeNet",
    "MobileNetV1", "MobileNetV2", "Network", "Recipe", "ResNet8", "ResNet18", "ResNet20", "TransformerClassifier",
    "UNet",
]  # fmt: skip

NETWORKS: Mapping[str, type[Network]] = {
    network.__name__: network
    for network in (
        Autoencoder, CRNN, CifarMobileNetV1, CifarMobileNetV2, DSCNN, Detector, DigitsCNN, DigitsMLP,
        DigitsTransformer, FashionCNN, GRUClassifier, LSTMClassifier, LeNet, MobileNetV1, MobileNetV2, ResNet8,
        ResNet18, ResNet20, TransformerClassifier, UNet,
    )
}  # fmt: skip
"""All networks by their class names."""

RECIPES: Mapping[str, Recipe] = {
    "digits-mlp": digits.MLP_RECIPE,
    "digits-cnn": digits.CNN_RECIPE,
    "lenet": fashion.LENET_RECIPE,
    "fashion-cnn": fashion.FASHION_CNN_RECIPE,
    "resnet8": resnet.RESNET8_RECIPE,
    "resnet20": resnet.RESNET20_RECIPE,
    "mobilenet-v1": mobilenet.MOBILENET_V1_RECIPE,
    "mobilenet-v2": mobilenet.MOBILENET_V2_RECIPE,
    "ds-cnn": ds_cnn.RECIPE,
    "autoencoder": autoencoder.RECIPE,
    "transformer": transformer.RECIPE,
    "lstm": recurrent.LSTM_RECIPE,
    "gru": recurrent.GRU_RECIPE,
    "crnn": crnn.RECIPE,
    "unet": unet.RECIPE,
    "detector": detector.RECIPE,
}
"""All recipes by the names that ``edgec train`` takes."""
