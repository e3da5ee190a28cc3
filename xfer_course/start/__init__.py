"""One pretrained network used three ways: a new head on frozen features, fine-tuning, and the first and then the other."""
from .fine_tuning import TransferNetwork, fine_tune, fit_head, train_from

__all__ = ["TransferNetwork", "fine_tune", "fit_head", "train_from"]
