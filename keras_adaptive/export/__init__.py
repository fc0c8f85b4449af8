"""Export to .tflite: a network and its policy in one file, with one signature per stage."""

from keras_adaptive.export.tflite import export_tflite as export_tflite
