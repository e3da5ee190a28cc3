"""Moved to `xfer_course.dann.selection`; the names of before are still found here."""
from ..dann.selection import (DANNClassifier, Saturation, classifier_uniformity, hopkins_statistic, mean_entropy,
                              mutual_information,
                              saturation, transfer_score)

__all__ = ["DANNClassifier", "mean_entropy", "mutual_information", "classifier_uniformity", "hopkins_statistic",
           "transfer_score",
           "Saturation", "saturation"]
