"""Export: a network and its policy in one .tflite file, or one ONNX file for each stage."""

from keras_adaptive.export.onnx import export_onnx as export_onnx
from keras_adaptive.export.tflite import export_tflite as export_tflite
