"""Moved to `xfer_course.dann.alignment`; the names of before are still found here."""
from ..dann.alignment import (CDAN, SubspaceAlignment, adapt_batch_norm, conditional_features, coral_loss,
                              entropy_loss, mmd_loss)

__all__ = ["coral_loss", "mmd_loss", "conditional_features", "CDAN", "adapt_batch_norm", "entropy_loss",
           "SubspaceAlignment"]
