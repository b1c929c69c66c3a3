"""What a run is scored by: the names of metrics, subsets and evaluations. Nothing imports torch."""

METRICS = ("dice", "iou", "f1", "precision", "recall", "cb_dice")
FOREGROUND_METRICS = ("foreground_dice", "foreground_iou")

SUBSETS = ("train", "validation", "test")

#: Which weights a score belongs to:
#: last: those after the last epoch (the primary outcome);
#: best: those of the epoch with the highest validation CB-Dice;
#: settled: the median of each validation and test score over the last fifth of the epochs;
#: recalibrated: the last ones, with batch-norm statistics estimated anew over the training images.
EVALUATIONS = ("last", "best", "settled", "recalibrated")
