"""What if the test domain differs?

Domain-adversarial training: deep, shallow, on text; how to choose a model; other alignments."""
from .alignment import (CDAN, SubspaceAlignment, adapt_batch_norm, conditional_features, coral_loss,
                        entropy_loss, mmd_loss)
from .deep import (DANN, DANNLoss, DANNOutput, GradientReversal, MultiDomainDANN, gradient_reversal,
                   lambda_schedule, learning_rate_schedule)
from .networks import cut_head, gtsrb_dann, max_norm_, mnist_dann, office_dann, office_parameters, svhn_dann
from .selection import (DANNClassifier, Saturation, classifier_uniformity, hopkins_statistic, mean_entropy,
                        mutual_information,
                        reverse_validation, saturation, transfer_score)
from .shallow import ShallowDANN
from .text import MarginalizedDenoiser

__all__ = ["gradient_reversal", "GradientReversal", "lambda_schedule", "learning_rate_schedule", "DANNOutput",
           "DANNLoss", "DANN", "MultiDomainDANN",
           "mnist_dann", "svhn_dann", "gtsrb_dann", "max_norm_", "office_dann", "office_parameters", "cut_head",
           "ShallowDANN",
           "MarginalizedDenoiser", "reverse_validation", "DANNClassifier", "mean_entropy", "mutual_information",
           "classifier_uniformity", "hopkins_statistic", "transfer_score", "Saturation", "saturation",
           "coral_loss", "mmd_loss",
           "conditional_features", "CDAN", "adapt_batch_norm", "entropy_loss", "SubspaceAlignment"]
