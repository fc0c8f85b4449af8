"""Writes a network and its policy as one .tflite file with one signature a stage."""

from keras_adaptive.export.tflite import export_tflite as export_tflite
