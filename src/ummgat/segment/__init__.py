"""Segmenters: the own U-Net and its training; MONAI bundles, nnU-Net folders and ONNX in a process of their own.

contract says what a segmenter is, load opens any kind. unet, sampling, train and folds are the own; foreign, describe,
meanings, process and worker are those of others.
"""
